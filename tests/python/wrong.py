"""Not run: what mypy and pyright must complain about, once a line."""
from hermes_bus import BusClient, send_message

client = BusClient(5)
client.poll("soon")
sent: str = client.send("a", {})
send_message("a", {}, from_ep=None)
client.submit("a", 1).wait("long")
for message in client:
    number: int = message
