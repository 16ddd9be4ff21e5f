"""Lower the rank of a trained adapter, looking at its loss:  python examples/compress_with_data.py OUT.

First make an adapter with a base model and examples: python examples/make_adapter.py
"""

import argparse
from pathlib import Path

from prunedlora import CompressConfig, compress_adapter


def main() -> None:
    """The same rank without and with data, and the smallest rank that costs at most 1 % of the loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write, which must not exist")
    parser.add_argument("--adapter", default="my-adapter")
    parser.add_argument("--base", default="my-model")
    parser.add_argument("--data", default="examples.jsonl")
    parser.add_argument("--rank", type=int, default=4)
    args = parser.parse_args()

    # With data the losses before and after are measured; svd decides without looking at it, svd_fisher looks.
    with_data = {"base": args.base, "data": args.data}
    wishes = {
        "svd": CompressConfig(rank=args.rank, criterion="svd", **with_data),
        "svd_fisher": CompressConfig(rank=args.rank, criterion="svd_fisher", **with_data),
        "within-1-percent": CompressConfig(max_loss_increase=0.01, **with_data),
    }
    args.out.mkdir()
    for name, config in wishes.items():
        report = compress_adapter(args.adapter, args.out / name, config)
        print(
            f"{name}: rank {max(report.ranks.values())}, held-out loss {report.loss_before:.4f} -> "
            f"{report.loss:.4f}, {report.bytes_before} -> {report.bytes_after} bytes"
        )


if __name__ == "__main__":
    main()
