"""The record that every contender sends: 200 bytes of JSON."""

from agent import encode

STREAM = "bench"
DEVICE = "bench"
TOPIC = f"device/{DEVICE}/telemetry/{STREAM}"
FILTER = f"device/{DEVICE}/telemetry/#"

FIELDS = {
    "ax": 0.0123, "ay": -0.9871, "az": 9.8066, "gx": 0.0021, "gy": -0.0137, "gz": 0.4402, "battery_percent": 87,
    "motor_current_a": 3.82, "mode": "autonomous", "frame": "base_link",
}  # fmt: skip
TAIL = encode.tail(FIELDS)


def payload(ts: int, seq: int) -> bytes:
    """One record as the agent would send it, for those that are handed ready-made bytes."""
    return b'{"ts":%d,"epoch":1,"seq":%d%b' % (ts, seq, TAIL)
