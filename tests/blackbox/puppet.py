"""Runs inside an interpreter that has an original hermes_bus: obeys one JSON line at a time, answers with one."""
import json
import sys
import threading
import time

from hermes_bus.client import BusClient, ensure_bus_running, send_message

clients = {}


def client(order):
    return clients[order.get("client", "one")]


def do_connect(order):
    made = clients[order.get("client", "one")] = BusClient(order["name"])
    return {"connected": made.connect(), "session_id": made.bus_session_id}


def do_burst(order):
    """Many send_message calls that all begin at the same moment."""
    results, gate = [], threading.Barrier(order["count"])

    def one(number):
        gate.wait(30)
        results.append(send_message(order["to"], {"number": number}))
    threads = [threading.Thread(target=one, args=(n,)) for n in range(order["count"])]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    return {"succeeded": results.count(True), "failed": results.count(False)}


def do_send_message(order):
    began = time.monotonic()
    ok = send_message(order["to"], order["body"])
    return {"ok": ok, "took_s": time.monotonic() - began}


ORDERS = {
    "connect": do_connect,
    "burst": do_burst,
    "send_message": do_send_message,
    "send": lambda o: client(o).send(o["to"], o["body"]),
    "poll": lambda o: client(o).poll(),
    "is_connected": lambda o: client(o).is_connected(),
    "session_id": lambda o: client(o).bus_session_id,
    "disconnect": lambda o: client(o).disconnect(),
    "ensure_bus_running": lambda o: ensure_bus_running(),
}

for line in sys.stdin:
    order = json.loads(line)
    try:
        reply = {"result": ORDERS[order["do"]](order)}
    except Exception as problem:
        reply = {"failed": "%s: %s" % (type(problem).__name__, problem)}
    print(json.dumps(reply), flush=True)
