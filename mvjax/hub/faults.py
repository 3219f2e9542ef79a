"""What can go wrong with the hub, each as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from mvjax.errors import UserError
from mvjax.hub.names import HubName, near
from mvjax.storage import UnreachableError

TOKEN = "a token of an account that may (HF_TOKEN, or `hf auth login`)"


@contextlib.contextmanager
def explained(name: HubName, written: str, cache: str, *, writing: bool = False) -> Generator[None]:
    """UserError for what the hub, the network or the cache refuse; UnreachableError where nothing answers or the hub
    is not to be asked.

    Args:
      name: what is asked for.
      written: how the user wrote it.
      cache: directory of the cache.
      writing: it is written to, not read.
    """
    from huggingface_hub import constants, errors

    transport = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library, which differs by version

    def not_found(joint: str, reason: str) -> str:
        """The reason; what has no hf:// may have been meant as a path, too."""
        if writing or written.startswith("hf://"):
            return f"{written}: {reason}"
        return f"{written}: no such file or directory here{near(written)}{joint}{reason}"

    try:
        yield
    except errors.GatedRepoError as error:  # a RepositoryNotFoundError too
        where = f"{constants.ENDPOINT}/{name.repository}"
        raise UserError(f"{written}: gated; accept its terms at {where} and give {TOKEN}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{written}: the repository has no revision {name.revision or 'main'!r}; name another"
        ) from error
    except errors.RepositoryNotFoundError as error:
        kind = "dataset" if name.dataset else "model"
        absent = f"no such {kind} on the hub ({constants.ENDPOINT}); a private one needs {TOKEN}"
        raise UserError(not_found(", and ", absent)) from error
    except errors.LocalEntryNotFoundError as error:
        cause = error.__cause__
        if constants.HF_HUB_OFFLINE or isinstance(cause, errors.OfflineModeIsEnabled):
            why = "HF_HUB_OFFLINE is set"
        elif isinstance(cause, errors.HfHubHTTPError):
            why = f"{constants.ENDPOINT} answers {cause.response.status_code}"
        else:
            why = f"{constants.ENDPOINT} cannot be reached"
        why = f"{why}, and the cache {cache} does not hold all of it"
        raise UnreachableError(not_found("; ", why)) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            verb = "write to" if writing else "read"
            raise UserError(f"{written}: the token may not {verb} it ({status}); give {TOKEN}") from error
        failure = UnreachableError if status >= 500 else UserError
        raise failure(f"{written}: {constants.ENDPOINT} answers {status or error}; try again later") from error
    except errors.HFValidationError as error:
        raise UserError(f"{written}: no name of a repository ({first_line(error)})") from error
    except (transport, errors.OfflineModeIsEnabled) as error:
        offline = isinstance(error, errors.OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} cannot be reached ({first_line(error)})"
        raise UnreachableError(f"{written}: {why}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
