"""The page on which a person judges: usable without scripts, and closed to everybody else."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from reaching_sweeps import ended_sweep
from real_robot import Phone, page_of, reaching_robot, start_judge, verdict

from sweeper.errors import UserError
from sweeper.finalists.judging.addresses import Address
from sweeper.finalists.judging.judging import JudgeOptions, Judging
from sweeper.finalists.judging.servers import Served
from sweeper.finalists.judging.session import last_session, new_session, wanted_policies
from sweeper.finalists.judging.web import JudgePage
from sweeper.records.sweep_state import read_sweep

LOCAL = Address("127.0.0.1", 0)

pytestmark = pytest.mark.filterwarnings("default")  # MLflow warns of its own habits.


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, name: str) -> dict[str, str]:
        """The fields of the first form that goes to a path."""
        at = next(n for n, (tag, its) in enumerate(self.found) if tag == "form" and its["action"] == name)
        fields: dict[str, str] = {}
        for tag, its in self.found[at + 1 :]:
            if tag == "form":
                break
            if tag == "input" and its.get("type") == "hidden":
                fields[str(its["name"])] = str(its["value"])
        return fields


@pytest.fixture
def judging(tmp_path: Path) -> Judging:
    sweep = ended_sweep(tmp_path / "arm", 0.5, 0.5)
    session = new_session(sweep.folder, wanted_policies(sweep, 2)[0], seed=1)
    return Judging(session, JudgeOptions(episodes=3))


@pytest.fixture
def page(judging: Judging) -> Iterator[JudgePage]:
    with JudgePage(judging, "arm", LOCAL, servers=[Served("A", "ws://127.0.0.1:8000", None)]) as served:
        yield served


@pytest.fixture
def guarded(judging: Judging) -> Iterator[JudgePage]:
    with JudgePage(judging, "arm", Address("0.0.0.0", 0), token="open sesame&") as served:
        yield served


def press(phone: Phone, path: str, **form: str) -> tuple[int, str]:
    """Fill the form of the page that goes to a path; returns the status and the page that follows."""
    text = phone.send("GET", "/")[2]
    status, headers, text = phone.send("POST", path, Elements(text).values(path) | form)
    if status == 303:
        text = phone.send("GET", headers["Location"])[2]
    return status, text


@pytest.mark.slow
def test_the_page_asks_and_every_button_records_its_outcome(page: JudgePage, judging: Judging) -> None:
    phone = Phone(page.port)
    for form in (
        {"word": "success"},
        {"word": "failure", "tag": "dropped it"},
        {"failed": "dropped it", "tag": "half typed"},
        {"quick": "0.75", "tag": "", "score": ""},
        {"word": "score", "score": "0,3"},
        {"word": "void", "tag": "camera fell"},
    ):
        status, text = press(phone, "/answer", **form)
        assert status == 303
        assert "The answer was recorded." in text
    assert [str(given.outcome) for given in judging.history()] == [
        "success",
        "failure (dropped it)",
        "failure (dropped it)",
        "score 0.75",
        "score 0.3",
        "void (camera fell)",
    ]
    text = phone.send("GET", "/")[2]
    assert "Start 3 of up to 3 · policy 2 of 2" in text
    assert "again" in text
    assert '<option value="dropped it">' in text, "reasons that were given are offered again"
    assert "Failure: dropped it</button>" in text


def test_an_answer_can_be_corrected_and_undone(page: JudgePage, judging: Judging) -> None:
    phone = Phone(page.port)
    press(phone, "/answer", word="success")
    given = judging.history()[0]
    link = re.search(r'href="(/correct[^"]*)"', phone.send("GET", "/")[2])
    assert link is not None
    status, _, text = phone.send("GET", link[1].replace("&amp;", "&"))
    assert status == 200
    assert f"Correct start 1, policy {given.letter}" in text
    form = Elements(text).values("/correct") | {"word": "failure", "tag": "slipped"}
    assert phone.send("POST", "/correct", form)[0] == 303
    assert [str(one.outcome) for one in judging.history()] == ["success", "failure (slipped)"]
    assert press(phone, "/undo")[0] == 303
    assert [str(one.outcome) for one in judging.history()][-1] == "success"
    for path in ("/correct?letter=B&start=2", "/correct?letter=Z&start=x", "/other"):
        assert phone.send("GET", path)[0] == 404


def test_a_second_tap_changes_nothing(page: JudgePage, judging: Judging) -> None:
    phone = Phone(page.port)
    form = Elements(phone.send("GET", "/")[2]).values("/answer") | {"word": "success"}
    assert phone.send("POST", "/answer", form)[0] == 303
    status, _, text = phone.send("POST", "/answer", form)
    assert status == 409
    assert "belongs to an earlier question" in text
    assert len(judging.history()) == 1


def test_what_is_not_an_outcome_records_nothing(page: JudgePage, judging: Judging) -> None:
    phone = Phone(page.port)
    for form, message in (
        ({"word": ""}, "Press one of the buttons"),
        ({"word": "score", "score": "2"}, "a number from 0 to 1"),
        ({"word": "great"}, "is not an outcome"),
        ({"word": "failure", "tag": "x" * 200}, "At most 80"),
    ):
        status, text = press(phone, "/answer", **form)
        assert (status, message in text) == (400, True), text
    assert judging.history() == []


def test_only_the_page_itself_can_change_something(page: JudgePage, judging: Judging) -> None:
    phone = Phone(page.port)
    form = Elements(phone.send("GET", "/")[2]).values("/answer") | {"word": "success"}
    for changed in ({"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "ä"}):
        for path in ("/answer", "/correct", "/undo", "/finish"):
            assert phone.send("POST", path, form | changed)[0] == 403
    without = {name: value for name, value in form.items() if name != "csrf"}
    assert phone.send("POST", "/answer", without)[0] == 403
    # Another site's name that points at this machine.
    assert phone.send("GET", "/", Host="evil.example")[0] == 403
    assert phone.send("POST", "/answer", form, Host="evil.example")[0] == 403
    assert phone.send("POST", "/answer", form | {"tag": "x" * 20_000})[0] == 413
    assert judging.history() == []
    assert not page.ended.is_set()


def test_without_the_token_nothing_is_shown_beyond_this_machine(guarded: JudgePage, judging: Judging) -> None:
    stranger = Phone(guarded.port)
    for path in ("/", "/state", "/correct?letter=A&start=0"):
        status, _, text = stranger.send("GET", path)
        assert status == 401
        assert "csrf" not in text
    assert stranger.send("GET", "/?token=guess")[0] == 401
    assert stranger.send("POST", "/answer", {"csrf": guarded.csrf, "word": "success"})[0] == 401
    assert Phone(guarded.port, "guess").send("GET", "/")[0] == 401
    link = guarded.link
    assert "0.0.0.0" not in link
    assert link.endswith("/?token=open%20sesame%26")
    status, headers, _ = stranger.send("GET", "/?" + link.partition("?")[2])
    assert (status, headers["Location"]) == (303, "/")
    assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].partition("; HttpOnly")[0]
    stranger.headers = {"Cookie": cookie}
    assert press(stranger, "/answer", word="success")[0] == 303
    assert Phone(guarded.port, "open sesame&").state()["question"]["start"] == 0
    assert len(judging.history()) == 1


def test_the_page_needs_nothing_else_and_hides_the_trials(page: JudgePage, judging: Judging) -> None:
    phone = Phone(page.port)
    press(phone, "/answer", word="failure", tag='<script>alert("x")</script>')
    _, headers, text = phone.send("GET", "/")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    tags = [tag for tag, _ in Elements(text).found]
    assert not {"script", "img", "link", "iframe"} & set(tags)
    assert "http" not in text
    assert "&lt;script&gt;" in text
    assert 'content="width=device-width, initial-scale=1"' in text
    for shown in (text, phone.send("GET", "/state")[2]):
        assert "trial" not in shown.lower()


@pytest.mark.slow
def test_programs_read_the_next_episode_and_end_the_session(page: JudgePage, judging: Judging) -> None:
    phone = Phone(page.port)
    state = phone.state()
    assert state["left"] == ["A", "B"]
    assert state["servers"] == {"A": {"url": "ws://127.0.0.1:8000", "token": None}}
    assert (state["question"]["start"], state["question"]["position"], state["starts"]) == (0, 1, 3)
    while state["question"] is not None:
        state = phone.answer(state, word="success")
    _, text = press(phone, "/finish")
    assert page.ended.wait(200)
    assert {int(found) for found in re.findall(r"was trial (\d+)", text)} == {0, 1}
    status, _, text = phone.send("POST", "/answer", {}, Accept="application/json")
    assert (status, "error" in text) == (403, True)


def test_a_client_that_stalls_blocks_no_other(page: JudgePage) -> None:
    with socket.create_connection(("127.0.0.1", page.port)) as stalled:
        stalled.sendall(b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\ncs")
        assert Phone(page.port).state()["question"] is not None
    with socket.create_connection(("127.0.0.1", page.port)) as garbage:
        garbage.sendall(b"\x16\x03\x01\xff\x00\r\n\r\n")
        garbage.recv(100)
    assert Phone(page.port).state()["question"] is not None


def test_a_full_disk_is_reported_on_the_page(
    page: JudgePage, judging: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainables.episodes.EpisodeFile.append", full)
    status, text = press(Phone(page.port), "/answer", word="success")
    assert status == 500
    assert "The answer was not recorded: No space left on device." in text


def test_a_port_in_use_is_named(judging: Judging) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--web-address 127.0.0.1:{port} cannot be used"):
            JudgePage(judging, "arm", Address("127.0.0.1", port)).__enter__()


def test_the_token_is_random_beyond_this_machine_and_none_on_it(judging: Judging) -> None:
    made = [JudgePage(judging, "arm", Address("0.0.0.0", 0)).token for _ in range(2)]
    assert made[0] != made[1]
    assert all(token and len(token) > 20 for token in made)
    assert JudgePage(judging, "arm", LOCAL, token="mine").token is None
    same = [JudgePage(judging, "arm", Address("0.0.0.0", 0), token="mine").csrf for _ in range(2)]
    assert same[0] == same[1], "an open page stays usable after a restart"


@pytest.mark.slow
def test_the_command_asks_on_the_page_until_the_person_ends_it(tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "arm", 0.2, 0.9)
    arguments = ("--serve", "none", "--web-address", "0.0.0.0:0", "--seed", "1")
    process = start_judge(sweep.folder, *arguments, SWEEPER_JUDGE_TOKEN="secret")
    try:
        phone, shown = page_of(process)
        assert phone.headers == {"Authorization": "Bearer secret"}
        robot = reaching_robot(last_session(sweep.folder))  # type: ignore[arg-type]
        state = phone.state()
        while (question := state["question"]) is not None:
            word = verdict(robot(question["letter"], question["start"])).word
            state = phone.answer(state, word=word)
        assert "Trial 1 is the best of 2 policies" in phone.answer(state, "/finish")["text"]
        out, _ = process.communicate(timeout=400)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out
    assert "Use it in a network that you trust." in out
    asked, _, told = out.partition("on the real robot, judged by a person")
    assert "start 1, policy" in asked
    assert "trial" not in (shown + asked).lower()
    assert "Trial 1 is the best" in told
    assert read_sweep(sweep.folder).judgement["winner"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_page_and_keeps_the_answers(tmp_path: Path, number: signal.Signals) -> None:
    sweep = ended_sweep(tmp_path / "arm", 0.2, 0.9)
    process = start_judge(sweep.folder, "--serve", "none", "--web-address", "127.0.0.1:0")
    try:
        phone, _ = page_of(process)
        state = phone.answer(phone.state(), word="success")
        phone.answer(state, word="failure")
        process.send_signal(number)
        out, _ = process.communicate(timeout=400)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, out
    assert "The same command continues the session." in out
    judgement = read_sweep(sweep.folder).judgement
    assert (judgement["complete"], judgement["options"]["starts"]) == (False, 1)
