"""Messages within one process: the embedded bus."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nt_memory.topics import OWN, check_topic, compile_pattern

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUTES = 4096
_log = logging.getLogger(__name__)


class _Subscription:
    """One subscriber of a `LocalBus`."""

    __slots__ = ("is_open", "matches", "receive")

    def __init__(
        self, matches: Callable[[str], bool], receive: Callable[[str, bytes, str], None]
    ) -> None:
        self.matches = matches
        self.receive = receive
        self.is_open = True


class LocalBus:
    """`ports.Bus` within one event loop; `receive` is called before `publish` returns.

    A `receive` that raises is logged and costs the other subscribers nothing. A message published
    from within a `receive` is handed out before the one being handed out reaches the rest.
    """

    def __init__(self) -> None:
        self._subscriptions: dict[_Subscription, None] = {}
        # Those to the memory's own topics: few, and matched anew for each message, because a reply
        # topic is used once.
        self._own: dict[_Subscription, None] = {}
        # Who gets a topic, in order of subscription; topics repeat, subscriptions seldom change.
        self._routes: dict[str, tuple[_Subscription, ...]] = {}

    def publish(self, topic: str, payload: bytes, reply_to: str = "") -> int:
        """See `Bus.publish`.

        Raises:
            InvalidNameError: the topic is malformed.

        Cost: one dict lookup and one call a subscriber, once the topic is known.
        """
        reached = 0
        route = self._routes.get(topic)
        for subscription in self._route(topic) if route is None else route:
            if subscription.is_open:
                reached += 1
                try:
                    subscription.receive(topic, payload, reply_to)
                except Exception:  # noqa: BLE001 - one subscriber's fault is not another's
                    _log.exception("a subscriber of topic %r raised", topic)
        if reply_to and not reached:
            self.publish(reply_to, b"")
        return reached

    def has_readers(self, topic: str) -> bool:
        """See `Bus.has_readers`; exact here.

        Raises:
            InvalidNameError: the topic is malformed.

        Cost: one dict lookup, once the topic is known.
        """
        route = self._routes.get(topic)
        return bool(self._route(topic) if route is None else route)

    def subscribe(self, pattern: str, receive: Callable[[str, bytes, str], None]) -> object:
        """See `Bus.subscribe`.

        Raises:
            InvalidNameError: the pattern is malformed.
        """
        subscription = _Subscription(compile_pattern(pattern), receive)
        if pattern.startswith(OWN):
            self._own[subscription] = None
        else:
            self._subscriptions[subscription] = None
            self._routes.clear()
        return subscription

    def unsubscribe(self, handle: object) -> None:
        """See `Bus.unsubscribe`. A message being handed out does not reach it any more."""
        if isinstance(handle, _Subscription) and handle.is_open:
            handle.is_open = False
            if handle in self._own:
                del self._own[handle]
                return
            del self._subscriptions[handle]
            self._routes.clear()

    @property
    def is_remote(self) -> bool:
        """See `Bus.is_remote`."""
        return False

    async def settle(self, topic: str, handle: object = None) -> None:
        """See `Bus.settle`; nothing is kept from anybody here."""

    def _route(self, topic: str) -> tuple[_Subscription, ...]:
        check_topic(topic)
        if topic.startswith(OWN):
            return tuple(s for s in self._own if s.matches(topic))
        route = tuple(s for s in self._subscriptions if s.matches(topic))
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        self._routes[topic] = route
        return route
