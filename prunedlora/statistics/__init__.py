"""What criteria need to know of an adapter, measured while a model runs."""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.statistics.bottleneck import BottleneckMoments as BottleneckMoments
    from prunedlora.statistics.collector import Collector as Collector
    from prunedlora.statistics.data import Statistics as Statistics
    from prunedlora.statistics.fisher import MicroBatchFisher as MicroBatchFisher
    from prunedlora.statistics.fisher import SampleFisher as SampleFisher
    from prunedlora.statistics.gradients import GradientMoments as GradientMoments
    from prunedlora.statistics.gradients import Sensitivity as Sensitivity
    from prunedlora.statistics.measurement import measure_statistics as measure_statistics

_PLACES = {
    "BottleneckMoments": "bottleneck",
    "Collector": "collector",
    "Statistics": "data",
    "MicroBatchFisher": "fisher",
    "SampleFisher": "fisher",
    "GradientMoments": "gradients",
    "Sensitivity": "gradients",
    "measure_statistics": "measurement",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
