"""python -m bench.peer_paho_sqlite PORT FOLDER RECORDS: what people build themselves, Paho behind a table in SQLite.

One commit a record on the way in, one on its acknowledgement; the next is sent when the last was acknowledged.
"""

import sqlite3
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt

from bench.records import DEVICE, TOPIC, payload


def main(port: int, folder: Path, records: int) -> None:
    database = sqlite3.connect(folder / "queue.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE queue (row INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, DEVICE, protocol=mqtt.MQTTv5)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    connected.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    for seq in range(1, records + 1):
        database.execute("INSERT INTO queue (payload) VALUES (?)", (payload(time.time_ns() // 1_000_000, seq),))
        row, body = database.execute("SELECT row, payload FROM queue ORDER BY row LIMIT 1").fetchone()
        client.publish(TOPIC, body, qos=1).wait_for_publish()
        database.execute("DELETE FROM queue WHERE row = ?", (row,))
    print("done", flush=True)
    sys.stdin.read()
    client.disconnect()
    client.loop_stop()
    database.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
