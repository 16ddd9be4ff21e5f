"""From a trained adapter's file to one of lower rank, and checks of both."""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.compress.benchmark import Comparison as Comparison
    from prunedlora.compress.benchmark import compare as compare
    from prunedlora.compress.calibration import Calibration as Calibration
    from prunedlora.compress.calibration import load_calibration as load_calibration
    from prunedlora.compress.compression import compress_adapter as compress_adapter
    from prunedlora.compress.config import CompressConfig as CompressConfig
    from prunedlora.compress.report import CompressReport as CompressReport
    from prunedlora.compress.verification import Verification as Verification
    from prunedlora.compress.verification import verify_adapter as verify_adapter

_PLACES = {
    "Comparison": "benchmark",
    "compare": "benchmark",
    "Calibration": "calibration",
    "load_calibration": "calibration",
    "compress_adapter": "compression",
    "CompressConfig": "config",
    "CompressReport": "report",
    "Verification": "verification",
    "verify_adapter": "verification",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
