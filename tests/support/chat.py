"""Calls of the chat client to a scripted endpoint, for its tests; waiting takes no time."""

import asyncio

from scripted_endpoint import KINDS, SLOW, serve

from mvjax.curator.endpoint.client import ChatClient, Endpoint
from mvjax.curator.production import Call

QUICK = tuple(kind for kind in KINDS if kind not in SLOW)


def call(text="What is 1 + 1?", schema=True):
    return Call("tree", "", ({"role": "user", "content": text},), {"type": "object"} if schema else None, 64)


CALL = call()


def echo(messages, body):
    return f"to: {messages[-1]['content']}"


class Waits:
    """Sleeping that takes no time and is written down; the clock goes with it."""

    def __init__(self):
        self.seconds = []

    def clock(self):
        return float(sum(self.seconds))

    async def __call__(self, seconds):
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def talk(url, conversation, *, waits=None, draw=1.0, **options):
    """What a conversation with a client comes to; waiting takes no time."""
    waits = waits or Waits()

    async def whole():
        settings = Endpoint(url, **{"model": "scripted", "timeout": 20, **options})
        client = ChatClient(settings, clock=waits.clock, sleep=waits, draw=lambda: draw)
        try:
            return await conversation(client)
        finally:
            await client.close()

    return asyncio.run(whole())


def ask(endpoint, *calls, **options):
    """Replies to calls, one after the other."""

    async def conversation(client):
        return [await client.complete(call) for call in calls]

    return talk(endpoint.url, conversation, **options)


def preflight(url, **options):
    talk(url, ChatClient.preflight, **options)


def gone():
    """Address where nobody is."""
    with serve(echo) as endpoint:
        return endpoint.url
