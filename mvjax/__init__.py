"""mvjax: Multiverse language models in JAX.

A Multiverse model decides by itself when to split its reasoning (Map), runs the parts in parallel (Process) and
merges them without loss (Reduce); see arXiv 2506.09991.

    import mvjax

    tokenizer, model = mvjax.load("model.gguf", adapter="adapter.safetensors")
    engine = mvjax.Engine(model, model.params, tokenizer)
    prompt = tokenizer.render_chat([{"role": "user", "content": "..."}])
    result = engine.generate([prompt], limits=mvjax.Limits(max_new_tokens=512))[0]

Importing the package imports nothing heavy: these names are imported when first used (PEP 562), the rooms
(`mvjax.language`, `mvjax.engine`, `mvjax.training`, ...) where they are needed.
"""

from typing import TYPE_CHECKING

from mvjax.errors import UserError as UserError
from mvjax.lazy import lazy_names
from mvjax.version import __version__ as __version__

if TYPE_CHECKING:
    from mvjax.engine import Engine as Engine
    from mvjax.engine import EngineConfig as EngineConfig
    from mvjax.engine import Limits as Limits
    from mvjax.engine import Result as Result
    from mvjax.engine import SamplingParams as SamplingParams
    from mvjax.models.load import demo_adapter as demo_adapter
    from mvjax.models.load import load_for_generation as load  # noqa: F401

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "mvjax.engine": "Engine EngineConfig Limits Result SamplingParams",
        "mvjax.models.load": "demo_adapter load_for_generation=load",
    },
    "UserError",
    "__version__",
)
