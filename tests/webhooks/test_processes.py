"""Several deliverers on one store, threads, and processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from receiving import Opening, Receiver, happen

from modelyard.core.instants import FixedClock
from modelyard.core.work import Store
from modelyard.webhooks import Round, Webhooks

EVENTS = ["stage_changed"]

SENDING = """
import sys
from modelyard.core.work import Store
from modelyard.webhooks import Webhooks
Webhooks(Store.at(sys.argv[1], files=sys.argv[2]), hosts="127.0.0.1").deliver()
"""


@pytest.mark.parametrize("before_death", [0, 1, 3])
def test_a_kill_between_sending_and_recording_loses_nothing(
    opened: Opening, place, receiver: Receiver, before_death: int
) -> None:
    """The receiver kills the deliverer while it waits for the answer; another one takes over when the lease has run out."""
    webhooks = opened(place)
    webhooks.create_webhook("chat", receiver.url, EVENTS, secret="s3cret")
    happen(webhooks, 5)
    victim = subprocess.Popen([sys.executable, "-c", SENDING, place[0], str(place[1])], stderr=subprocess.PIPE)

    def kill(request) -> None:
        if len(receiver.requests) == before_death + 1:
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()

    receiver.on_request = kill
    _, said = victim.communicate()
    assert victim.returncode == -signal.SIGKILL, said
    receiver.on_request = lambda _: None
    successor = opened(place)
    later = FixedClock(Store.at(place[0], files=place[1]).clock.now())
    later.advance(60)
    successor.store.clock = later
    assert successor.deliver() == Round(delivered=5 - before_death)
    assert receiver.events == [*range(before_death + 1), *range(before_death, 5)]
    twice = [request.delivery for request in receiver.requests if request.json["details"]["n"] == before_death]
    assert len(twice) == 2
    assert len(set(twice)) == 1, "a receiver can tell the repetition by its id"
    assert len({request.delivery for request in receiver.requests}) == 5


def test_one_of_several_deliverers_sends(opened: Opening, place, receiver: Receiver, clock: FixedClock) -> None:
    first, second = opened(place), opened(place)
    first.create_webhook("chat", receiver.url, EVENTS)
    go = threading.Event()
    happen(first, 2)
    assert first.deliver_as("one", go) == Round(collected=2, delivered=2)
    happen(first, 2)
    assert second.deliver_as("two", go) == Round(), "the first one's lease holds"
    clock.advance(15)
    assert second.deliver_as("two", go) == Round(collected=2, delivered=2)
    happen(first)
    assert first.deliver_as("one", go) == Round()
    second.release("two")
    assert first.deliver_as("one", go).delivered == 1
    assert receiver.events == [0, 1, 0, 1, 0]


def test_many_deliverers_at_once_send_everything_once(opened: Opening, place, receiver: Receiver) -> None:
    many = [opened(place) for _ in range(4)]
    many[0].create_webhook("chat", receiver.url, EVENTS)
    happen(many[0], 40)
    stop = threading.Event()
    threads = [threading.Thread(target=one.deliver_as, args=(str(n), stop)) for n, one in enumerate(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert receiver.events == list(range(40))


def test_two_threads_of_one_program_do_not_send_twice(webhooks: Webhooks, receiver: Receiver) -> None:
    webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks)
    receiver.on_request = lambda _: others.append(webhooks.deliver())
    others: list[Round] = []
    assert webhooks.deliver() == Round(collected=1, delivered=1)
    assert others == [Round()]
    assert len(receiver.requests) == 1


def test_the_thread_sends_by_itself_until_it_is_stopped(tmp_path, receiver: Receiver) -> None:
    webhooks = Webhooks(tmp_path / "yard", hosts="127.0.0.1")
    webhooks.create_webhook("chat", receiver.url, EVENTS)
    arrived = threading.Semaphore(0)
    receiver.on_request = lambda _: arrived.release()
    deliverer = webhooks.start(interval=0.001)
    for _ in range(3):
        happen(webhooks)
        assert arrived.acquire(timeout=120)
    deliverer.stop()
    assert not deliverer.is_alive()
    happen(webhooks)
    assert len(receiver.requests) == 3
    assert webhooks.deliver() == Round(collected=1, delivered=1), "the lease was given back"
    webhooks.close()


def test_stopping_lets_what_is_under_way_end_and_keeps_the_rest(tmp_path, receiver: Receiver) -> None:
    webhooks = Webhooks(tmp_path / "yard", hosts="127.0.0.1")
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    under_way, answer = threading.Event(), threading.Event()

    def hold(_) -> None:
        under_way.set()
        assert answer.wait(120)

    receiver.on_request = hold
    happen(webhooks, 5)
    deliverer = webhooks.start(interval=0.001)
    assert under_way.wait(120)
    stopping = threading.Thread(target=deliverer.stop)
    stopping.start()
    while not deliverer._stopped.is_set():
        pass
    answer.set()
    stopping.join()
    found = [one.status.value for one in webhooks.list_deliveries(hook.webhook_id).items]
    assert found == ["pending"] * 4 + ["delivered"]
    webhooks.close()


def test_a_deliverer_ends_with_its_webhooks(tmp_path) -> None:
    webhooks = Webhooks(tmp_path / "yard", hosts="")
    deliverer = webhooks.start(interval=0.001)
    webhooks._deliverers.clear()
    del webhooks
    deliverer.join(120)
    assert not deliverer.is_alive()


def test_dropped_webhooks_warn_of_nothing(tmp_path, receiver: Receiver) -> None:
    code = (
        "import sys\n"
        "from modelyard.webhooks import Webhooks\n"
        "from modelyard.core.events import EventType\n"
        "from modelyard.core.refs import Resource\n"
        f"webhooks = Webhooks({str(tmp_path / 'yard')!r}, hosts='127.0.0.1')\n"
        f"webhooks.create_webhook('chat', {receiver.url!r}, ['stage_changed'])\n"
        "webhooks.start(0.001)\n"
        "with webhooks.store.work('ana') as work:\n"
        "    work.emit(EventType.STAGE_CHANGED, Resource('model', 'fraud:v1.0.0'), {'n': 0})\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_idle_deliverer_writes_nothing(webhooks: Webhooks, receiver: Receiver) -> None:
    webhooks.create_webhook("chat", receiver.url, EVENTS)
    webhooks.deliver_as("one", threading.Event())
    with webhooks.store.reading() as rows:
        before = rows.one("SELECT count(*) AS n FROM leases")
    assert before == {"n": 0}
