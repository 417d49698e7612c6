"""Alerts reach a real web server and a real command, and never stop a sweep."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import ended, run_in
from hook_server import Hook, hook_server
from small_sweeps import LR, SUCCESS, fill, sweep

from sweeper.alerts import delivery, sender
from sweeper.alerts.delivery import DeliveryError, format_of, payload, run_command, send_webhook
from sweeper.alerts.messages import best_alert, end_alert, trial_alert
from sweeper.alerts.sender import Alerts, Sent, deliver, read_sent
from sweeper.alerts.silence import silent_s
from sweeper.alerts.watcher import GRACE_S, Watcher
from sweeper.errors import SpecError
from sweeper.layout import ALERTS, JOURNAL, trial_folder
from sweeper.masking import masked
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.records.status import SweepStatus
from sweeper.records.sweep_state import SweepState
from sweeper.spec.alerts import AlertsSpec
from sweeper.spec.space_file.load import load_spec
from sweeper.spec.sweep import SweepSpec
from sweeper.trial.exchange import PROGRESS

Wait = Callable[[Callable[[], bool]], bool]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr(delivery, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(delivery, "TIMEOUT_S", 60.0)
    monkeypatch.setenv("no_proxy", "*")
    with hook_server() as found:
        yield found


@pytest.fixture
def played(tmp_path: Path) -> SweepState:
    state = SweepState(tmp_path)
    spec = sweep(tmp_path, LR).to_dict()
    fields = {"sweep": "small", "sweep_id": "1", "spec": spec, "info": {}, "driver": {}}
    state.apply({"event": EventKind.SWEEP_START, "time": time.time(), **fields})
    return state


def start(state: SweepState, number: int, ago_s: float = 0.0) -> None:
    event = {"event": EventKind.TRIAL_START, "trial": number, "config": {}, "values": {}}
    state.apply({**event, "time": time.time() - ago_s})


def complete(state: SweepState, number: int, value: float) -> dict[str, Any]:
    now = time.time()
    start(state, number)
    report = {"event": EventKind.REPORT, "trial": number, "step": 5, "metrics": {SUCCESS: value}}
    state.apply({**report, "time": now})
    event = {
        "event": EventKind.TRIAL_END,
        "trial": number,
        "status": "completed",
        "reason": "",
        "message": "",
    }
    state.apply({**event, "time": now})
    return {**event, "time": now}


def test_a_better_trial_is_told_and_a_worse_or_the_first_one_is_not(hook: Hook, played: SweepState) -> None:
    alerts = Alerts(AlertsSpec(hook.url), played)
    alerts.start()
    for number, value in enumerate((0.5, 0.4, 0.7)):
        alerts.tell(complete(played, number, value))
    alerts.close(300)
    (told,) = hook.received
    assert (told["event"], told["title"]) == ("best", f"{played.name}: trial 2 is the best")
    assert told["best"] == {"trial": 2, "final": {SUCCESS: 0.7}, "values": {}}
    assert told["text"] == f"Best: trial 2, {SUCCESS} 0.7 at step 5."
    assert [(sent.event, sent.to, sent.problem) for sent in read_sent(played.folder)] == [
        ("best", "127.0.0.1", "")
    ]


def test_what_an_earlier_driver_told_is_not_told_again(hook: Hook, played: SweepState) -> None:
    complete(played, 0, 0.5)
    alerts = Alerts(AlertsSpec(hook.url), played)
    alerts.start()
    alerts.tell(complete(played, 1, 0.4))
    alerts.close(300)
    assert hook.received == []


@pytest.mark.parametrize(
    ("status", "message", "event", "title"),
    [
        (SweepStatus.DONE, "All 3 trials ended.", "ended", "is done"),
        (SweepStatus.INTERRUPTED, "Interrupted.", "ended", "interrupted"),
        (SweepStatus.FAILED, "Every trial failed.", "failed", "failed"),
        (
            SweepStatus.FAILED,
            "There is no room left in /x: No space.",
            "full_disk",
            "paused: the disk is full",
        ),
    ],
)
def test_the_end_of_a_sweep_is_told_once(
    hook: Hook, played: SweepState, status: SweepStatus, message: str, event: str, title: str
) -> None:
    alerts = Alerts(AlertsSpec(hook.url), played)
    alerts.start()
    alerts.ended(status, message)
    alerts.ended(status, message)
    alerts.close(300)
    (told,) = hook.received
    assert (told["event"], told["title"], told["status"]) == (event, f"{played.name} {title}", status)
    assert message in told["text"]


def test_only_the_events_that_were_asked_for_are_told(hook: Hook, played: SweepState) -> None:
    alerts = Alerts(AlertsSpec(hook.url, on=("failed",)), played)
    alerts.start()
    alerts.ended(SweepStatus.DONE, "All ended.")
    alerts.close(300)
    assert hook.received == []


@pytest.mark.slow
def test_a_full_disk_is_told_although_nothing_can_be_written(hook: Hook, small_disk: Path) -> None:
    state = SweepState(small_disk)
    fields = {"sweep": "small", "sweep_id": "1", "info": {}, "driver": {}}
    spec = sweep(small_disk, LR).to_dict()
    state.apply({"event": EventKind.SWEEP_START, "time": time.time(), "spec": spec, **fields})
    alerts = Alerts(AlertsSpec(hook.url), state)
    alerts.start()
    fill(small_disk)
    alerts.ended(SweepStatus.FAILED, "the driver failed")
    alerts.close(300)
    assert [told["event"] for told in hook.received] == ["full_disk"]


def test_silence_is_told_once_until_something_is_heard(
    hook: Hook, played: SweepState, monkeypatch: pytest.MonkeyPatch, settles: Wait
) -> None:
    monkeypatch.setattr(sender, "LOOK_S", 0.02)
    start(played, 0)
    played.heard = time.time() - 700
    alerts = Alerts(AlertsSpec(hook.url, silent_minutes=10), played)
    alerts.start()
    assert settles(lambda: len(hook.received) == 1)
    time.sleep(0.2)  # it looks several times more
    assert hook.received[0]["title"].endswith("nothing heard for 12 minutes")
    assert len(hook.received) == 1
    played.heard = time.time() - 650  # something was heard, and then nothing again
    assert settles(lambda: len(hook.received) == 2)
    alerts.close(300)


def test_progress_and_waiting_are_not_silence(played: SweepState) -> None:
    assert silent_s(played, played.heard + 1000) == 0  # nothing runs
    start(played, 0)
    assert silent_s(played, played.heard + 1000) == pytest.approx(1000)
    progress = trial_folder(played.folder, 0) / PROGRESS
    progress.parent.mkdir(parents=True)
    progress.write_text("{}")
    os.utime(progress, (played.heard + 900, played.heard + 900))
    assert silent_s(played, played.heard + 1000) == pytest.approx(100, abs=1)
    played.apply({"event": EventKind.TRIAL_WAIT, "time": played.heard, "trial": 0, "needs": "1 GPU"})
    assert silent_s(played, played.heard + 1000) == 0


def test_a_watcher_tells_what_the_driver_has_not_told(hook: Hook, played: SweepState) -> None:
    start(played, 0)
    spec = AlertsSpec(hook.url, silent_minutes=10)
    watcher = Watcher(spec, played)
    now = played.heard + 600 + GRACE_S
    watcher.look(now - 1)
    assert hook.received == []
    watcher.look(now + 1)
    watcher.look(now + 2)
    assert [told["event"] for told in hook.received] == ["silent"]
    Watcher(spec, played).look(now + 1)  # it was recorded as told
    assert len(hook.received) == 1
    watcher.close(died=True)
    assert hook.received[-1]["title"] == f"{played.name}: the driver died"


def test_a_receiver_that_is_down_for_a_moment_is_tried_again(hook: Hook) -> None:
    hook.answers = [503, 429]
    assert send_webhook(hook.url, "auto", trial_alert("x")) == 3
    assert len(hook.received) == 3


def test_a_receiver_says_how_long_to_wait(hook: Hook) -> None:
    hook.answers, hook.headers = [429], {"Retry-After": "7"}
    pauses: list[float] = []
    send_webhook(hook.url, "auto", trial_alert("x"), pauses.append)
    assert pauses == [7.0]


@pytest.mark.parametrize(("answers", "tries"), [([404], 1), ([302], 1), ([500, 500, 500], 3)])
def test_a_receiver_that_refuses_is_reported_without_its_address(
    hook: Hook, answers: list[int], tries: int
) -> None:
    hook.answers, hook.headers = list(answers), {"Location": "http://127.0.0.1:1/elsewhere"}
    with pytest.raises(DeliveryError, match=f"127.0.0.1 answered {answers[0]}") as caught:
        send_webhook(hook.url, "auto", trial_alert("x"))
    assert len(hook.received) == tries
    assert "/hook" not in str(caught.value)


def test_a_receiver_that_is_not_there_does_not_stop_anything(played: SweepState) -> None:
    with hook_server() as gone:
        pass
    alerts = Alerts(AlertsSpec(gone.url, command="exit 3"), played)
    delivery_pauses, delivery.PAUSES_S = delivery.PAUSES_S, (0.01, 0.01)
    try:
        alerts.start()
        alerts.ended(SweepStatus.DONE, "All ended.")
        alerts.close(300)
    finally:
        delivery.PAUSES_S = delivery_pauses
    webhook, command = read_sent(played.folder)
    assert "127.0.0.1 cannot be reached" in webhook.problem
    assert "(3 attempts)" in webhook.problem
    assert command.problem == "the command ended with 3"
    assert "127.0.0.1 cannot be reached" in alerts.problem


def test_a_slow_receiver_blocks_neither_the_driver_nor_its_end(hook: Hook, played: SweepState) -> None:
    hook.answering.clear()
    alerts = Alerts(AlertsSpec(hook.url), played)
    alerts.start()
    for number in range(3):
        alerts.tell(complete(played, number, float(number)))
    alerts.ended(SweepStatus.DONE, "")
    alerts.close(0.1)
    # A driver that waited would have seen one attempt time out, and another follow.
    assert hook.arrived <= 1
    assert hook.received == []


def test_more_alerts_than_fit_are_dropped(hook: Hook, played: SweepState) -> None:
    alerts = Alerts(AlertsSpec(hook.url), played)  # its thread does not run
    for number in range(sender.WAITING + 3):
        alerts.tell(complete(played, number, float(number)))
    assert "others are dropped" in alerts.problem


def test_a_command_receives_the_alert(tmp_path: Path, played: SweepState) -> None:
    out = tmp_path / "out"
    complete(played, 0, 0.5)
    alert = best_alert(played, played.trials[0])
    run_command(f'cat > "{out}"; echo "$SWEEPER_ALERT_EVENT|$SWEEPER_ALERT_TITLE" >> "{out}"', alert)
    body, line = out.read_text().rsplit("}", 1)
    assert json.loads(body + "}")["event"] == "best"
    assert line.strip() == f"best|{alert.title}"


def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settles: Wait
) -> None:
    monkeypatch.setattr(delivery, "COMMAND_TIMEOUT_S", 0.3)
    go, mark = tmp_path / "go", tmp_path / "mark"
    child = f"while [ ! -e {go} ]; do sleep 0.05; done; touch {mark}"
    with pytest.raises(DeliveryError, match="did not end"):
        run_command(f"({child}) & sleep 3600", trial_alert("x"))
    go.touch()  # a child that was left would see it now
    time.sleep(1.0)
    assert not mark.exists()


def test_chats_receive_their_own_form() -> None:
    alert = trial_alert("x" * 3000)
    assert set(payload(alert, "slack")) == {"text"}
    assert len(payload(alert, "discord")["content"]) <= 2000
    assert format_of("https://hooks.slack.com/services/T/B/x", "auto") == "slack"
    assert format_of("https://discord.com/api/webhooks/1/x", "auto") == "discord"
    assert format_of("https://example.org/x", "auto") == "json"
    assert format_of("https://chat.example.org/x", "slack") == "slack"


def faults(*overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec("pusht_quick", list(overrides))
    return str(caught.value)


def test_faulty_alerts_are_reported() -> None:
    secret = "https://hooks.slack.com/services/T000/B000/XXXXXXXX"
    said = faults(f"alerts.webhook={secret}")
    assert "contains a secret" in said
    assert "$SWEEPER_WEBHOOK" in said
    assert "XXXXXXXX" not in masked(said)
    assert "alerts: has no receiver" in faults("alerts.silent_minutes=5")
    assert "'bset' is not an event. Did you mean best?" in faults("alerts={command: 'true', on: [bset]}")
    assert "'$a b' does not name" in faults("alerts.webhook=$a b")
    assert "is not the address of a webhook" in faults("alerts.webhook=example.org/x")


def test_the_address_in_a_variable_is_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: Hook, played: SweepState
) -> None:
    monkeypatch.setenv("TEAM_WEBHOOK_URL", hook.url)
    spec = load_spec("pusht_quick", ["alerts.webhook=$TEAM_WEBHOOK_URL"])
    assert SweepSpec.from_dict(spec.to_dict()).alerts == AlertsSpec("$TEAM_WEBHOOK_URL")
    assert spec.alerts is not None
    with Journal(tmp_path / JOURNAL) as journal:
        journal.append(EventKind.NOTE, text=f"a library printed {hook.url}")
    deliver(spec.alerts, end_alert(played, SweepStatus.DONE, f"see {hook.url}", ""), folder=tmp_path)
    assert hook.received
    for path in (tmp_path / JOURNAL, tmp_path / ALERTS):
        assert hook.url not in path.read_text()
    assert hook.url not in hook.received[0]["text"]


def test_addresses_of_chats_are_masked_wherever_they_stand() -> None:
    slack = "see https://hooks.slack.com/services/T0/B0/abc, and"
    assert masked(slack) == "see https://hooks.slack.com/services/*** and"
    assert masked("https://discord.com/api/webhooks/12/ab-c") == "https://discord.com/api/webhooks/***"


def test_a_damaged_record_of_deliveries_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    line = json.dumps(vars(Sent("best", "command")))
    (tmp_path / ALERTS).write_text(f'{line}\n{{"event": 3}}\n[]\n{{"event"')
    assert [sent.event for sent in read_sent(tmp_path)] == ["best"]


def test_check_sends_a_test_alert(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path, monkeypatch)
    space = ["check", "pusht_quick", f"alerts.webhook={hook.url}", "--send-test-alert"]
    assert ended(*space) == 0
    assert "127.0.0.1: delivered" in capsys.readouterr().out
    assert hook.received[0]["event"] == "test"
    assert ended(*space, "alerts.command=echo no such device; exit 4") == 1
    assert "command: not delivered: the command ended with 4: no such device" in capsys.readouterr().out
    unset = ["check", "pusht_quick", "alerts.webhook=$NOT_SET_HERE"]
    assert ended(*unset, "--send-test-alert") == 1
    assert "NOT_SET_HERE is not set here" in capsys.readouterr().out
    assert ended(*unset) == 0
    assert "NOT_SET_HERE is not set" in " ".join(capsys.readouterr().out.split())
    assert ended("check", "pusht_quick", "--send-test-alert") == 2
