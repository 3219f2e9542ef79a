"""Pages that prompts share: with prompts and answers before them, and with each other while they are prefilled."""

from __future__ import annotations

from collections.abc import Sequence

from mvjax.engine.kv_cache import KVCache
from mvjax.engine.prefix_cache import NOTHING
from mvjax.engine.prompt import Prompt
from mvjax.engine.request import Request


class PromptPages:
    """Gives prompts the pages that their beginnings are in already, and knows what they fill. Where nothing is shared
    they just get their pages.

    Attributes:
        looked_up: tokens of prompts that were looked for.
        found: how many of them were there.
    """

    def __init__(self, cache: KVCache):
        self.cache = cache
        self.looked_up = self.found = 0

    def take(self, index: int, request: Request, spare: int) -> bool:
        """Pages for a prompt and `spare` slots behind it: those that its beginning is in already, new ones for the
        rest; False where there are too few."""
        cache, prefixes, found = self.cache, self.cache.prefixes, NOTHING
        if prefixes is not None:
            if request.page_keys is None:
                request.page_keys = prefixes.page_keys(request.prompt, request.fed)
            found = prefixes.find(request.prompt, request.page_keys, request.fed)
            full = len(found.pages)
            cache.share(index, [*found.pages, *([] if found.tail is None else [found.tail])])
            if found.tail is not None and not cache.copy_shared(index, full):
                return False
        if not cache.reserve(index, request.fed + spare):
            return False
        request.prefilled = request.found = found.slots
        if prefixes is not None:
            self.looked_up += request.fed
            self.found += found.slots
        return True

    def without_twins(self, waiting: Sequence[tuple[int, Request]]) -> list[tuple[int, Request]]:
        """Prompts that are to be prefilled, without those whose next page an older one is to fill: they share it when
        it is filled.

        Args:
            waiting: index and request of each, the oldest first.
        """
        prefixes, coming, others = self.cache.prefixes, set[bytes](), []
        if prefixes is None:
            return list(waiting)
        for index, request in waiting:
            size, keys = prefixes.pool.page_size, request.page_keys or []
            while not request.prefilled % size and (place := request.prefilled // size) < len(keys):
                page = prefixes.page(keys[place])
                if page is None:
                    break
                self.cache.share(index, [page], place)
                request.prefilled += size
                request.found += size
                self.found += size
            ahead = keys[request.prefilled // size :]
            if not ahead or ahead[0] not in coming:
                others.append((index, request))
            coming.update(ahead)
        return others

    def know(self, index: int, request: Request) -> None:
        """Pages that a prompt has filled may be shared from now on."""
        prefixes = self.cache.prefixes
        if prefixes is not None and request.page_keys:
            size = prefixes.pool.page_size
            for place in range(-(-request.found // size), request.prefilled // size):
                prefixes.add_page(request.page_keys[place], int(prefixes.pool.table_RM[index, place]))

    def keep(self, index: int, transcript: Prompt) -> None:
        """The stream of a request that ends may be the beginning of others' prompts.

        Args:
            transcript: its prompt and its answer, as far as its stream holds them, in transcript order.
        """
        if self.cache.prefixes is not None:
            self.cache.prefixes.add_stream(transcript, self.cache.prefixes.pool.owned(index).tolist())
