"""An adapter on disk: reading it without trusting it, and writing it whole or not at all."""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.files.adapter_config import AdapterConfig as AdapterConfig
    from prunedlora.files.adapter_config import read_config as read_config
    from prunedlora.files.adapter_file import AdapterFile as AdapterFile
    from prunedlora.files.adapter_file import AdapterModule as AdapterModule
    from prunedlora.files.adapter_file import open_adapter as open_adapter
    from prunedlora.files.export import export_adapter as export_adapter
    from prunedlora.files.header import Header as Header
    from prunedlora.files.header import read_header as read_header
    from prunedlora.files.inspection import Inspection as Inspection
    from prunedlora.files.inspection import inspect_adapter as inspect_adapter
    from prunedlora.files.layouts import lay_out as lay_out
    from prunedlora.files.readers import Reading as Reading
    from prunedlora.files.readers import readings as readings
    from prunedlora.files.writing import write_tensors as write_tensors

_PLACES = {
    "AdapterConfig": "adapter_config",
    "read_config": "adapter_config",
    "AdapterFile": "adapter_file",
    "AdapterModule": "adapter_file",
    "open_adapter": "adapter_file",
    "export_adapter": "export",
    "Header": "header",
    "read_header": "header",
    "Inspection": "inspection",
    "inspect_adapter": "inspection",
    "lay_out": "layouts",
    "Reading": "readers",
    "readings": "readers",
    "write_tensors": "writing",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
