"""What Triton makes of the GPU kernels for Ampere and Hopper: instructions, registers, shared memory, no spills."""

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.aot

POINTERS = ("q", "k", "v", "do", "o", "dq", "dk", "dv")
TYPES = {"lse": "*fp32", "shift": "*fp32", "scale": "fp32", "soft_cap": "fp32"}
TYPES |= dict.fromkeys(("start", "end", "first", "run", "run_end", "pages", "length", "words"), "*i32")
MOST_SHARED = {80: 164 * 1024, 90: 227 * 1024}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """jax-triton switches Triton's own cache off, for the whole process."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def usage(kernel, constants, types, capability, warps, stages):
    """The PTX, and registers, bytes of stack (spills) and of shared memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return made.asm["ptx"], resources(tool, made.asm["cubin"]), made.metadata.shared


def resources(tool: Path, cubin: bytes) -> dict[str, int]:
    """Of a binary: REG and STACK as it says itself, and spills in its hot loops, the innermost ones with products."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        says, code = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", code)]
    jumps = [(at, re.search(r"\bBRA\b.*0x([0-9a-f]+)", text)) for at, text in lines]
    loops = [(int(to[1], 16), at) for at, to in jumps if to and int(to[1], 16) < at]
    bodies = {loop: [text for at, text in lines if loop[0] <= at <= loop[1]] for loop in loops}
    hot = {loop for loop, body in bodies.items() if sum("MMA" in text or "FFMA" in text for text in body) >= 8}
    inner = [a for a in hot if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in hot)]
    assert inner
    spills = sum("STL" in text or "LDL" in text for loop in inner for text in bodies[loop])
    return {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", says)} | {"spills": spills}


def check(ptx, used, shared, size, capability, products):
    assert used["spills"] == 0, used
    assert shared <= MOST_SHARED[capability]
    assert (products in ptx) == (size == 2)
    assert "tf32" not in ptx


@pytest.mark.parametrize(
    ("head", "size", "capability"),
    [
        # What models use, then the extremes.
        *((64, 2, 90), (128, 2, 80), (128, 2, 90), (256, 2, 90), (256, 4, 80)),
        *(
            pytest.param(*shape, marks=pytest.mark.slow)
            for shape in ((64, 2, 80), (64, 4, 80), (64, 4, 90), (128, 4, 80), (128, 4, 90), (256, 2, 80), (256, 4, 90))
        ),
    ],
)
@pytest.mark.parametrize("name", ["forward", "backward_dq", "backward_dkv"])
def test_training_kernels(name, head, size, capability):
    from mvjax_kernels import tuning
    from mvjax_kernels.gpu import attention_kernels

    dtype = {2: "bfloat16", 4: "float32"}[size]
    tiles = getattr(tuning.gpu_tiles(head, dtype, capability), name.removeprefix("backward_"))
    types = TYPES | dict.fromkeys(POINTERS, {2: "*bf16", 4: "*fp32"}[size])
    constants = {"T": 8192, "S": 8192, "N": 8, "K": 2, "H": head, "E": 4, "RUNS": 16}
    constants |= {"ROWS": tiles.rows, "BLOCK": tiles.block, "CAP": False}
    kernel = getattr(attention_kernels, name)
    stays = tiles.block if name == "backward_dkv" else tiles.rows
    products = "wgmma" if capability == 90 and stays >= 64 else "mma.sync"
    check(*usage(kernel, constants, types, capability, tiles.warps, tiles.stages), size, capability, products)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("kind", "shape", "cap"),
    [(kind, (8, 7, 128), False) for kind in ("bf16", "fp32", "i8", "fp8e5", "fp8e4nv")]
    + [
        ("bf16", (32, 7, 128), True),
        ("bf16", (8, 4, 256), False),
        ("fp32", (8, 4, 256), False),
        ("bf16", (1, 3, 64), True),
    ],
    ids=str,
)
def test_decode_kernel(kind, shape, cap, capability):
    from mvjax_kernels import tuning
    from mvjax_kernels.gpu import decode_kernels

    if kind == "fp8e4nv" and capability < 89:
        pytest.skip("Ampere has no float8_e4m3fn: the backend refuses it")
    quantised = kind in ("i8", "fp8e5", "fp8e4nv")
    types = TYPES | {"k_pages": f"*{kind}", "v_pages": f"*{kind}", "q": "*fp32" if kind == "fp32" else "*bf16"}
    types |= {"o": "*fp32", "k_scale": "*fp32", "v_scale": "*fp32"}
    lanes, group, head = shape
    rows = 1 << (lanes * group - 1).bit_length()
    dtype = "float32" if kind == "fp32" else "bfloat16"
    tiles = tuning.gpu_decode_tiles(rows, head, dtype, 64, 128, 64)
    constants = {"L": lanes, "N": 4 * group, "K": 4, "H": head, "Z": 128, "PAGES": 64, "ROWS": rows}
    constants |= {"BLOCK": tiles.block, "CAP": cap, "QUANTISED": quantised}
    made = usage(decode_kernels.decode, constants, types, capability, tiles.warps, tiles.stages)
    products = "wgmma" if capability == 90 and rows >= 64 else "mma.sync"
    check(*made, 4 if kind == "fp32" else 2, capability, products)
