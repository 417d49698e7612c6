"""The web page that asks for the outcome of an episode: no script, usable with a thumb from 400 px on."""

from __future__ import annotations

from collections import Counter

from sweeper.finalists.judging.answers import LONGEST_TAG, Given, valid_answers
from sweeper.finalists.judging.dialogue import given_text
from sweeper.finalists.judging.judging import Judgement, Judging, Question
from sweeper.report.markup import Html, join, raw, tag
from sweeper.report.style import STYLE
from sweeper.text import policy_words

__all__ = ["asking_page", "correcting_page", "message_page", "result_page"]

OWN_STYLE = """
main { max-width: 560px; padding-bottom: 32px; }
h1 { font-size: 1.1rem; color: var(--soft); font-weight: 600; }
.now { text-align: center; padding: 12px 16px; }
.now .letter { font-size: 5rem; line-height: 1.1; font-weight: 700; margin: 0; }
.now p { margin: 0; }
form { margin: 0; }
button { font: inherit; color: var(--ink); background: var(--shade); border: 1px solid var(--line);
  border-radius: 10px; min-height: 48px; padding: 8px 14px; touch-action: manipulation; cursor: pointer; }
button:focus-visible, input:focus-visible, a:focus-visible, summary:focus-visible {
  outline: 3px solid var(--mark); outline-offset: 2px; }
.big { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; margin: 12px 0; }
.big button { min-height: 84px; font-size: 1.25rem; font-weight: 650; color: #fff; border: 0; }
.big .yes { background: #1f7a48; } .big .no { background: #b03325; }
.row { display: flex; flex-wrap: wrap; gap: 10px; margin: 12px 0; align-items: center; }
.row button { flex: 1 1 0; }
label { display: block; color: var(--soft); font-size: 0.9rem; margin: 12px 0 4px; }
input[type=text] { font: inherit; width: 100%; min-height: 48px; padding: 8px 12px; color: var(--ink);
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.row input[type=text] { flex: 1 1 0; min-width: 0; }
details { margin: 12px 0; }
summary { min-height: 44px; padding: 10px 0; color: var(--soft); cursor: pointer; }
ol.given { list-style: none; margin: 0; padding: 0; }
ol.given li { display: flex; justify-content: space-between; gap: 12px; align-items: center;
  border-bottom: 1px solid var(--line); min-height: 48px; padding: 4px 0; overflow-wrap: anywhere; }
ol.given li:last-child { border-bottom: 0; }
ol.given a { padding: 12px 0 12px 12px; flex: none; }
ol.given .past { color: var(--soft); text-decoration: line-through; }
a { color: var(--mark); }
input::placeholder { color: var(--soft); opacity: 1; }
.chips-row button { flex: 0 1 auto; border-color: var(--bad); }
"""

QUARTERS = ("0.25", "0.5", "0.75")

LISTED = 12

MOST_TAGS = 12

MOST_BUTTONS = 4


def asking_page(judging: Judging, name: str, csrf: str, note: str = "") -> str:
    """The page with the next episode, or with the end if there is none.

    Args:
        judging: The session.
        name: Name of the sweep.
        csrf: What every form must contain.
        note: A sentence about the last answer; may be empty.
    """
    history, question = judging.history(), judging.question()
    noted = tag("p", note, class_="banner", role="status") if note else Html("")
    if question is None:
        said = tag("p", "All episodes are judged. You can still correct an answer below.")
        end = _form("/finish", csrf, judging.key(), tag("button", "End and show the result"))
        asked = tag("div", said, tag("div", end, class_="row"), class_="card")
    else:
        asked = join(_now(judging, question), _outcome_form("/answer", csrf, question.key, _tags(history)))
    return _page(name, noted, asked, _given(history, csrf, judging.key()))


def correcting_page(judging: Judging, name: str, csrf: str, given: Given) -> str:
    """The page that corrects an answer."""
    hidden = [("letter", given.letter), ("start", str(given.start))]
    said = tag(
        "div",
        tag("h2", f"Correct start {given.start + 1}, policy {given.letter}"),
        tag("p", f"It was judged: {given.outcome}. That answer is kept in the record."),
        class_="card",
    )
    form = _outcome_form("/correct", csrf, judging.key(), _tags(judging.history()), hidden)
    return _page(name, said, form, tag("p", tag("a", "Back, and leave it as it is", href="/")))


def result_page(name: str, result: Judgement | None) -> str:
    """The page at the end: the answer, and which policy was which."""
    if result is None:
        said = "No start was judged with every policy, so there is no result."
        return _page(name, tag("div", tag("p", said), class_="card"))
    rows = [
        tag(
            "li",
            tag(
                "span",
                f"{one['letter']} was {policy_words(one['trial'], one.get('policy', ''))} ({one['state']})",
            ),
            tag("span", f"{one['metrics']['score']:.3f} in {one['metrics']['episodes']:.0f}"),
        )
        for one in result.found
    ]
    listed = tag("ol", rows, class_="given")
    end = tag("p", "The terminal shows the intervals. This page is no longer served.", class_="soft")
    return _page(name, tag("div", tag("p", result.verdict), listed, end, class_="card"))


def message_page(message: str, link: str = "/") -> str:
    """A page with a sentence, and a link to go on."""
    onwards = tag("p", tag("a", "Continue", href=link)) if link else Html("")
    return _page("", tag("div", tag("p", message), onwards, class_="card"))


def _page(name: str, *content: Html) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{name}: judge" if name else "Judge"),
        tag("style", raw(STYLE + OWN_STYLE)),
    )
    title = tag("h1", f"{name} on the real robot") if name else Html("")
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', title, *content)), lang='en')}\n"


def _now(judging: Judging, question: Question) -> Html:
    again = " · again" if question.again else ""
    place = f"Start {question.start + 1} of up to {judging.options.episodes}"
    advice = (
        "Set up a new scene. Every policy of this start meets the same one."
        if question.position == 1 and not question.again
        else f"Reset the scene to that of start {question.start + 1}."
    )
    return tag(
        "div",
        tag("p", f"{place} · policy {question.position} of {question.policies}{again}", class_="soft"),
        tag("p", question.letter, class_="letter", aria_label=f"Policy {question.letter}"),
        tag("p", advice),
        class_="card now",
    )


def _outcome_form(
    path: str, csrf: str, key: str, tags: list[str], hidden: list[tuple[str, str]] | None = None
) -> Html:
    """The buttons for an outcome: each of them sends the form with what was typed."""
    return _form(
        path,
        csrf,
        key,
        *[tag("input", type="hidden", name_=name, value=value) for name, value in hidden or ()],
        # Enter in a field presses the first button of a form: it must not be an outcome.
        tag("button", "", name_="word", value="", hidden=True, tabindex="-1"),
        tag("label", "What went wrong (may be empty)", for_="tag"),
        tag(
            "input",
            type="text",
            id="tag",
            name_="tag",
            maxlength=str(LONGEST_TAG),
            list="tags",
            autocomplete="off",
            placeholder="e.g. dropped it",
        ),
        tag("datalist", [tag("option", value=one) for one in tags], id="tags"),
        tag(
            "div",
            tag("button", "Failure", class_="no", name_="word", value="failure"),
            tag("button", "Success", class_="yes", name_="word", value="success"),
            class_="big",
        ),
        _again(tags),
        tag(
            "details",
            tag("summary", "A score between failure and success"),
            tag(
                "div",
                [tag("button", one, name_="quick", value=one) for one in QUARTERS],
                class_="row",
            ),
            tag(
                "div",
                tag(
                    "input",
                    type="text",
                    name_="score",
                    inputmode="decimal",
                    placeholder="0 to 1",
                    aria_label="Score from 0 to 1",
                    autocomplete="off",
                ),
                tag("button", "Send score", name_="word", value="score"),
                class_="row",
            ),
        ),
        tag(
            "details",
            tag("summary", "Void: something else went wrong"),
            tag("p", "The episode does not count and is repeated.", class_="soft"),
            tag("div", tag("button", "Void, repeat it", name_="word", value="void"), class_="row"),
        ),
    )


def _again(tags: list[str]) -> Html:
    """A button for each of the most frequent reasons: a failure with one tap."""
    buttons = [tag("button", f"Failure: {one}", name_="failed", value=one) for one in tags[:MOST_BUTTONS]]
    return tag("div", buttons, class_="row chips-row") if buttons else Html("")


def _given(history: list[Given], csrf: str, key: str) -> Html:
    """The last answers, each with a link that corrects it, and the button that takes back the last."""
    if not history:
        return Html("")
    counting = set(map(id, valid_answers(history).values()))
    rows = []
    for given in reversed(history[-LISTED:]):
        if id(given) in counting:
            link = tag("a", "Correct", href=f"/correct?letter={given.letter}&start={given.start}")
            rows.append(tag("li", tag("span", given_text(given)), link))
        else:
            rows.append(tag("li", tag("span", given_text(given), class_="past")))
    undo = _form("/undo", csrf, key, tag("button", "Undo the last answer"))
    return tag(
        "div",
        tag("h2", "Last answers"),
        tag("ol", rows, class_="given"),
        tag("div", undo, class_="row"),
        class_="card",
    )


def _form(path: str, csrf: str, key: str, *content: Html) -> Html:
    return tag(
        "form",
        tag("input", type="hidden", name_="csrf", value=csrf),
        tag("input", type="hidden", name_="key", value=key),
        *content,
        method="post",
        action=path,
    )


def _tags(history: list[Given]) -> list[str]:
    """The reasons of failures so far, the most frequent first."""
    counted = Counter(
        given.judged.tag for given in valid_answers(history).values() if given.judged.word == "failure"
    )
    del counted[""]
    return [name for name, _ in counted.most_common(MOST_TAGS)]
