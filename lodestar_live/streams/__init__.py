"""Updates out and commands in, over ZeroMQ; the wire format is in PROTOCOL.md."""

from lodestar_live.streams.commands import request
from lodestar_live.streams.keys import ClientKeys
from lodestar_live.streams.messages import Message
from lodestar_live.streams.publisher import Publisher
from lodestar_live.streams.subscriber import Subscriber

__all__ = ["ClientKeys", "Message", "Publisher", "Subscriber", "request"]
