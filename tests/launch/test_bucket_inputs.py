"""What a run reads of a model in a bucket: each process what its devices hold, and no more."""

from pathlib import Path

import pytest
from bucket_host import Host, ended, metrics, start_two
from bucket_server import Bucket
from counting_proxy import CountingProxy
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.models import save_checkpoint
from mvjax.storage import StoragePath, copy_tree
from mvjax.tokenizers import load_tokenizer
from mvjax.weights import Checkpoint

pytestmark = pytest.mark.slow
STEPS = 2


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_each_of_two_processes_reads_its_share(tmp_path: Path, stocked_bucket: Bucket, kind: str):
    config = tiny_config("qwen2", tied=False, vocab_size=8192, intermediate_size=512)
    checkpoint = Checkpoint(config, tiny_tensors(config))
    tokenizer = load_tokenizer(write_gguf_model(tmp_path / "tokens.gguf", config, {}))
    save_checkpoint(tmp_path / "model", checkpoint, tokenizer=tokenizer, max_shard_bytes=3_000_000)
    address = f"{stocked_bucket.address}/larger-{kind}"
    copy_tree(StoragePath(str(tmp_path / "model")), StoragePath(address))
    proxies = [CountingProxy(stocked_bucket.url) for _ in range(2)]
    hosts = [Host(tmp_path / f"host-{i}", Bucket(stocked_bucket.address, proxy.url)) for i, proxy in enumerate(proxies)]
    output = f"{stocked_bucket.address}/share-{kind}"
    words = ("--model.path", address, "--mesh.fsdp", "2", "--steps.total", str(STEPS))
    for process in start_two(hosts, output, *words, *(("--lora.rank", "0") if kind == "full" else ())):
        ended(process)
    assert [line["step"] for line in metrics(output)] == [*range(1, STEPS + 1)]
    read = [proxy.bytes_of(".safetensors") for proxy in proxies]
    for proxy in proxies:
        proxy.close()
    print([count / checkpoint.nbytes for count in read])
    assert all(count <= 0.6 * checkpoint.nbytes for count in read), read
    assert sum(read) >= checkpoint.nbytes  # all of it has come through the proxies
