import psutil

from agent.model import Value
from agent.sources.source import Field, Source


class Memory(Source):
    """Memory and swap (proc_meminfo(5))."""

    fields = (
        Field("memory_percent", "%", "memory that is not available"),
        Field("memory_available_bytes", "B", "memory that programs can have without swapping"),
        Field("memory_total_bytes", "B", "memory that there is"),
        Field("swap_percent", "%", "swap in use; absent without swap"),
        Field("swap_used_bytes", "B", "swap in use; absent without swap"),
    )
    failures = (psutil.Error,)

    def _read(self) -> dict[str, Value]:
        memory = psutil.virtual_memory()
        values: dict[str, Value] = {
            "memory_percent": memory.percent,
            "memory_available_bytes": memory.available,
            "memory_total_bytes": memory.total,
        }
        swap = psutil.swap_memory()
        if swap.total:
            values |= {"swap_percent": swap.percent, "swap_used_bytes": swap.used}
        return values
