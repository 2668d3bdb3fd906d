"""The online store on Redis: one string a key, read by MGET, replaced only by something newer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from modelyard.core.errors import Invalid, Unavailable
from modelyard.core.urls import without_secrets

PREFIX = "modelyard"
BATCH = 500  # keys a script call: short enough that other clients hardly wait
SIGN = 1 << 63  # moves signed event times to where their big-endian bytes sort as they do
_EVENT = struct.Struct(">Q")

# Compares the first 24 bytes (event time, then the stamp) one by one: Lua's own `<` on strings follows the locale.
SET_IF_NEWER = """
local stored = 0
for i, key in ipairs(KEYS) do
  local old, new = redis.call('GET', key), ARGV[i]
  local keep = false
  if old then
    for at = 1, 24 do
      local a, b = string.byte(old, at) or -1, string.byte(new, at) or -1
      if a ~= b then keep = a > b; break end
    end
  end
  if not keep then redis.call('SET', key, new); stored = stored + 1 end
end
return stored
"""


class RedisOnlineStore:
    """`OnlineStore` on a Redis server, `redis://[user:password@]host:port/database`."""

    def __init__(self, url: str) -> None:
        try:
            self._client: Any = redis.Redis.from_url(url)
        except ValueError as error:
            raise Invalid(
                f"{without_secrets(url)!r} is no Redis URL: {error}. Write it as redis://host:6379/0."
            ) from error
        self._put: Callable[..., Any] = self._client.register_script(SET_IF_NEWER)

    def write(self, view: str, rows: Sequence[tuple[str, int, bytes]]) -> int:
        """Store each (key, event time, packed values) that is newer than what is there; returns how many were."""
        stored = 0
        with self._errors():
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                keys = [f"{PREFIX}:{view}:{key}" for key, _, _ in part]
                stored += self._put(keys=keys, args=[_EVENT.pack(event + SIGN) + packed for _, event, packed in part])
        return stored

    def read(self, view: str, keys: Sequence[str]) -> list[tuple[int, bytes] | None]:
        """(event time, packed values) for each key in order, None where there is none; one round trip."""
        if not keys:
            return []
        with self._errors():
            found = self._client.mget([f"{PREFIX}:{view}:{key}" for key in keys])
        return [(_EVENT.unpack_from(x)[0] - SIGN, x[8:]) if x is not None else None for x in found]

    def delete(self, view: str, keys: Sequence[str]) -> int:
        """Forget entities; returns how many were there."""
        with self._errors():
            return int(self._client.delete(*[f"{PREFIX}:{view}:{key}" for key in keys])) if keys else 0

    def close(self) -> None:
        """Give connections back."""
        self._client.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
            raise Unavailable(
                f"Redis cannot be reached: {error}. Check that it runs and that the URL is right."
            ) from error
