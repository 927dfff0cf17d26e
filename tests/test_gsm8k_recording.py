"""The recording of published GSM8K solutions: the pocket calculator, the layout, the game, and the real data."""

import ast
import json
import re
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tracer_env
from scripts import gsm8k_recording as script
from scripts.gsm8k_recording import MODELS, find_folder, load_solutions, main, make_recording, measure, review, value_of
from tracer_env import Control, Game, Role, Seat
from tracer_env.answers import parse_verdict
from tracer_env.errors import ConfigError, DataNotFoundError
from tracer_env.exact import build_tree, evaluate
from tracer_env.recordings import hash_of_prompt, load_recording, save_recording

LABELLED_RIGHT = (286, 515, 458, 742)  # the data's own counts, of 1319 for each model
QUESTIONS = [("What is 6 times 7?", 42), ("What is 9 minus 4?", 5), ("What is 50 plus 50?", 100)]
SOLUTIONS = [  # of each model in turn, written for these tests: (text, right)
    [("<<6*7=42>>42\nA: 42", True), ("A: 42", True), ("<<6+7=13>>13\nA: 13", False), ("<<6*7=41>>\nA: 41", False)],
    [("I do not know", False), ("<<9-4=6>>6\nA: 6", False), ("<<9-4=5>>5\nA: 5.0", True), ("A: 4", False)],
    [("I cannot say", False), ("None", False), ("Nor can I", False), ("<<50+50=100>>\nA: 100", True)],
]  # fmt: skip


# --- the calculator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "verdict"),
    [
        ("48/2=24", "RIGHT"),
        ("48/2=25", "WRONG\n48/2 is 24, not 25."),
        ("1,200*2=2,400", "RIGHT"),
        ("1,200*2=2,500", "WRONG\n1,200*2 is 2400, not 2,500."),
        ("10/3=3.33", "RIGHT"),
        ("10/3=3.3333333333333335", "RIGHT"),
        ("10/3=3.34", "WRONG\n10/3 is about 3.33333, not 3.34."),
        ("1/8=.125", "RIGHT"),
        ("19.5*(1/4)=5", "RIGHT"),  # rounded to the digits shown
        ("19.5*(1/4)=5.0", "WRONG\n19.5*(1/4) is 4.875, not 5.0."),
        ("0.1+0.2=0.30000000000000004", "RIGHT"),  # floats
        ("-(2-5)*-2=-6", "RIGHT"),
        ("1--+-2=-1", "RIGHT"),
        ("1--2=-1", "WRONG\n1--2 is 3, not -1."),
        ("20%*50=10", "RIGHT"),
        ("2-3-4=-5", "RIGHT"),
        ("2-3-4=3", "WRONG\n2-3-4 is -5, not 3."),
        ("16/4/2=2", "RIGHT"),
        (" 2 + 3 * 4 = 14 ", "RIGHT"),
    ],
)
def test_marks_are_worked_out_again(mark, verdict):
    assert review(f"a <<{mark}>> b").removesuffix("\nNo calculation that can be checked fails.") == verdict


@pytest.mark.parametrize(
    "mark",
    ["x+1=2", "2=x", "5+2(3)=9", "7", "4*3=12=13", "1/0=5", "2:15+2:38=9", "12,00+1=2", "400-250=150 000", "2**3=9",
     "10//3=5", "5%3=9", "5%%=1", "1e3=9", "=5", "5+=9", ")(=1", "(1=2", "1.2.3=7", "2=", "٣+1=9"],
)  # fmt: skip
def test_what_cannot_be_read_is_no_ground_for_wrong(mark):
    assert review(f"<<{mark}>>") == "RIGHT\nNo calculation that can be checked fails."
    assert review(f"<<{mark}>><<2+2=5>><<1+1=3>>") == "WRONG\n2+2 is 4, not 5.", "the first that fails is named"


def test_without_marks_there_is_nothing_to_check():
    for text in ("", "2+2=5", "<<2+2=5", "2+2=5>>", "<2+2=5>"):
        assert review(text) == "RIGHT\nThere is nothing to check."


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "9" * 10**6, "(" * 10**5, "(" * 10**5 + "1" + ")" * 10**5, "-" * 10**6 + "1", "1" + "*9" * 10**6,
     "__import__('os')", "(" * 30 + "1" + ")" * 30],
)  # fmt: skip
def test_hostile_expressions_are_not_read(expression):
    assert value_of(expression) is None
    assert review(f"<<{expression}=1>>").startswith("RIGHT")


def test_the_largest_expressions_that_are_read_are_harmless():
    assert value_of("(" * 20 + "1" + ")" * 20) == 1
    assert value_of("-" * 199 + "1") == -1
    assert review("<<" + "1/3" + "/1%" * 60 + "=1>>").startswith("WRONG\n")  # about 10 to the 120th
    assert review("<<" + "9" * 190 + "=1>>").startswith("WRONG\n")


numerals = st.one_of(
    st.integers(1, 99).map(str),
    st.integers(1, 9999).map(lambda n: f"{n / 100:.2f}"),
    st.integers(1000, 9999).map(lambda n: f"{n:,}"),
)


@st.composite
def expressions(draw, depth=2):
    """Draw the text of an expression and its value by Python's own grammar over exact fractions."""
    text = python = ""
    for k in range(draw(st.integers(1, 3))):
        if k:
            operator = draw(st.sampled_from("+-*/"))
            text, python = text + operator, python + operator
        if depth and draw(st.booleans()):
            inner, inner_python = draw(expressions(depth=depth - 1))
            text, python = f"{text}({inner})", f"{python}({inner_python})"
        else:
            sign, numeral = draw(st.sampled_from(["", "", "-"])), draw(numerals)
            percent = draw(st.sampled_from(["", "", "%"]))
            text += sign + numeral + percent
            python += f"({sign}Fraction('{numeral.replace(',', '')}'){'/100' if percent else ''})"
    return text, python


@settings(deadline=None)
@given(expressions())
def test_values_are_those_of_ordinary_arithmetic(drawn):
    text, python = drawn
    try:
        expected = eval(python, {"Fraction": Fraction})  # the test's own text
    except ZeroDivisionError:
        expected = None
    value = value_of(text)
    assert value == expected if len(text) <= 200 else value is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 99), st.sampled_from("+-*/")), min_size=2, max_size=3),
    st.integers(0, 2),
    st.integers(-1000, 1000).filter(lambda k: abs(k) > 1),
)
def test_rounded_results_hold_and_others_do_not(terms, digits, off):
    text = "".join(f"{number}{operator}" for number, operator in terms)[:-1]
    value = eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})  # the test's own text
    rounded, unit = round(value, digits), Fraction(1, 10**digits)
    assert review(f"<<{text}={float(rounded):.{digits}f}>>").startswith("RIGHT")
    stated = f"{float(rounded + off * unit):.{digits}f}"  # two units away or more
    verdict, critique = review(f"<<1+1=2>> <<{text}={stated}>>").splitlines()
    assert (verdict, critique.endswith(f", not {stated}."), critique.startswith(f"{text} is ")) == ("WRONG", True, True)


@settings(deadline=None)
@given(st.one_of(st.text(), st.text("0123456789+-*/()%.,=<> x\n").map(lambda t: f"<<{t}>>")))
@example("<<(((=1>>")
@example("<<" + "1/3" + "%" * 190 + "=1>>")
def test_any_text_gets_a_readable_verdict(text):
    said = review(text)
    assert parse_verdict(said) is not None
    assert said.partition("\n")[0] == parse_verdict(said).value
    assert len(said) < 600


# --- the layout -----------------------------------------------------------------------------------------------------


def write_data(folder, rows=None):
    folder.mkdir(parents=True)
    with open(folder / "test.jsonl", "w") as file:
        for question, gold in QUESTIONS:
            file.write(json.dumps({"question": question, "answer": f"Work.\n#### {gold}"}) + "\n")
    if rows is None:
        rows = [
            {"question": question, "ground_truth": f"A: {gold}"}
            | {m: {"is_correct": right, "solution": text} for m, (text, right) in zip(MODELS, by_model, strict=True)}
            for (question, gold), by_model in zip(QUESTIONS, SOLUTIONS, strict=True)
        ]
    (folder / "example_model_solutions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file made of the tests' own solutions."""
    folder = tmp_path_factory.mktemp("small")
    recording, _ = make_recording(write_data(folder / "gsm8k"), "small")
    save_recording(folder / "small.npz", recording)
    return folder / "small.npz"


def order(world):
    """Return the solutions of a world in the order in which they are spoken: (text, right) each."""
    question, replicate = divmod(world, 4)
    return [SOLUTIONS[question][(replicate + j) % 4] for j in range(4)]


def ending(world, speaks):
    """Play a world by the rules alone: (final answer is right, texts that were proposed).

    Args:
        world: its number.
        speaks: for rounds 0, 2 and 4, whether the proposer speaks if it need not.
    """
    standing, said, solutions = None, [], iter(order(world))
    for wants in speaks:
        if standing is None or wants:
            text, right = next(solutions)
            said.append(text)
            standing = right if "A: " in text else standing
    return bool(standing), said


def test_pool_and_unknown_facts(small):
    recording = load_recording(small)
    assert [q.text for q in recording.questions] == [question for question, _ in QUESTIONS]
    assert list(recording.proposals.text) == [text for by_model in SOLUTIONS for text, _ in by_model]
    assert recording.proposals.correct.tolist() == [right for by_model in SOLUTIONS for _, right in by_model]
    assert (recording.manifest["replicates"], recording.manifest["candidates"], recording.num_worlds) == (4, 1, 12)
    assert recording.greedy.text == ["", "", ""], "there are no greedy solutions"
    assert recording.greedy.answer == [None] * 3
    assert recording.greedy.correct.tolist() == [-1, -1, -1], "and nobody knows whether they would be right"
    for table in (recording.tree, recording.proposals):
        assert (table.tokens_in == -1).all()
        assert (table.tokens_out == -1).all()
        assert np.isnan(table.mean_logprob).all()
        assert np.isnan(table.p_right).all()
    assert set(recording.manifest["sources"]) == {"test.jsonl", "example_model_solutions.jsonl"}
    assert "MIT" in recording.manifest["license"]


@pytest.mark.parametrize("controls", list(product((0, 1), repeat=5)))
def test_every_path_of_every_world_plays_by_the_rotation(small, controls):
    env = tracer_env.parallel_env(task=f"recorded:{small}")
    for world in range(12):
        observations, _ = env.reset(seed=0, options={"index": world})
        for control in controls:
            actions = {agent: {"control": 0, "utterance": ""} for agent in env.agents}
            for agent in env.agents:
                if observations[agent]["control_mask"][Control.SPEAK]:
                    actions[agent]["control"] = control
            observations, _, _, _, infos = env.step(actions)
        assert not env.agents
        assert infos["proposer_0"]["correct"] == ending(world, controls[::2])[0], world


def all_states(game, state):
    """Yield every state of a game that is not over, with its acting seat."""
    if state.over:
        return
    (seat,) = game.acting(state)
    yield state, seat
    said = game.utterances(state, seat)[0]
    for control in (Control.SKIP, Control.SPEAK) if game.mask(state, seat)[0] else (Control.SPEAK,):
        yield from all_states(game, game.advance(state, {seat: tracer_env.Action(control, said)}))


def test_every_node_says_what_its_seat_would(small):
    game = Game(f"recorded:{small}")
    recording, nodes = game.task.recording, 0
    for world in range(12):
        for state, seat in all_states(game, game.start(game.task.question(world))):
            (said,) = game.utterances(state, seat)
            spoken = sum(t.spoke and t.seat.role is Role.PROPOSER for t in state.turns)
            expected = order(world)[spoken][0] if seat.role is Role.PROPOSER else review(state.standing.utterance)
            assert said == expected
            assert recording.prompt_hash[game.task.node(state, seat)] == hash_of_prompt(game.prompt(state, seat))
            nodes += 1
    assert nodes == len(recording.node_path), "and the recording holds nothing else"


def test_verdicts_are_judged_against_what_stands(small):
    recording = load_recording(small)
    reviews = recording.node_seat == Game(f"recorded:{small}").rules.seats.index(Seat(Role.REVIEWER, 0))
    assert (recording.tree.verdict[reviews] >= 0).all()
    assert (recording.tree.verdict[~reviews] == -1).all()
    assert {0, 1} == set(recording.tree.verdict[reviews].tolist()) == set(recording.tree.correct[reviews].tolist())


@pytest.mark.parametrize("speak", [0.0, 1.0])
def test_exact_figures_of_always_and_never_speaking(small, speak):
    figures = evaluate(build_tree(Game(f"recorded:{small}")), speak)
    worlds = [ending(world, (speak,) * 3) for world in range(12)]
    assert figures.world_accuracy.tolist() == [float(right) for right, _ in worlds]
    reviews = 2 * speak
    assert figures.calls_per_question == pytest.approx(np.mean([len(said) for _, said in worlds]) + reviews)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_makes_a_file_and_reports(tmp_path, capsys):
    data, out = write_data(tmp_path / "data" / "gsm8k").parent, tmp_path / "new" / "game.npz"
    assert main(["--data-dir", str(data), "--out", str(out), "--exact"]) == 0
    report = capsys.readouterr().out
    assert "3 questions, 12 worlds" in report
    assert "first proposals right: 33.33 %" in report
    assert "labels that differ from the library's reading of the answer: 0" in report
    assert "RIGHT of a right solution (true positives): 4 of 4, 100.00 %" in report
    assert "RIGHT of a wrong solution (false positives): 6 of 8, 75.00 %" in report
    assert "never speak (but for the first): accuracy 50.00 %" in report
    assert load_recording(out).manifest["name"] == "game"
    assert [path.name for path in out.parent.iterdir()] == ["game.npz"]


def test_fewer_questions_and_the_same_file_again(tmp_path):
    folder = write_data(tmp_path / "gsm8k")
    few, _ = make_recording(folder, "few", 2)
    assert (len(few.questions), few.num_worlds, len(few.greedy)) == (2, 8, 2)
    again, _ = make_recording(folder, "few", 2)
    assert again.tree.text == few.tree.text
    for number in (0, 4, -1):
        with pytest.raises(ConfigError, match="from 1 to 3"):
            make_recording(folder, "few", number)


def test_missing_data_says_where_it_looked_and_what_to_pass(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TRACER_DATA_DIR", raising=False)
    with pytest.raises(DataNotFoundError, match=r"TRACER_DATA_DIR is not set.*--data-dir"):
        find_folder(None)
    with pytest.raises(DataNotFoundError, match=rf"in {re.escape(str(tmp_path / 'gsm8k'))} and .*--data-dir"):
        find_folder(tmp_path)
    (tmp_path / "test.jsonl").write_text("")  # one of the two files is not enough
    assert main(["--data-dir", str(tmp_path), "--out", str(tmp_path / "a.npz")]) == 1
    assert "example_model_solutions.jsonl" in capsys.readouterr().err
    folder = write_data(tmp_path / "b" / "gsm8k")
    monkeypatch.setenv("TRACER_DATA_DIR", str(folder.parent))
    assert find_folder(None) == find_folder(folder) == folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(question="Another?"), "line 2: is not about the question in the same line"),
        (lambda rows: rows[2].pop(MODELS[1]), f"line 3: field '{MODELS[1]}' must hold"),
        (lambda rows: rows[0][MODELS[3]].update(is_correct="yes"), f"line 1: field '{MODELS[3]}' must hold"),
        (lambda rows: rows.pop(), "solutions to 2 questions, not 3"),
    ],
)
def test_malformed_solutions_are_named_and_leave_no_file(tmp_path, capsys, change, message):
    folder = write_data(tmp_path / "gsm8k")
    path = folder / "example_model_solutions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out" / "a.npz"
    assert main(["--data-dir", str(folder), "--out", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not list(out.parent.iterdir())


def test_no_file_is_overwritten(tmp_path, capsys):
    folder = write_data(tmp_path / "gsm8k")
    for name, message in (("a.npz", "is there already"), ("a.zip", "ends in .npz")):
        (tmp_path / name).write_text("mine")
        assert main(["--data-dir", str(folder), "--out", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"


def test_a_label_that_the_library_reads_otherwise_is_counted(tmp_path):
    folder = write_data(tmp_path / "gsm8k")
    questions = make_recording(folder, "a")[0].questions
    solutions = load_solutions(folder, questions)
    assert measure(questions, solutions).disagreements == 0
    lie = script.Solution("A: 41", labelled_right=True)
    assert measure(questions, [(lie, *solutions[0][1:]), *solutions[1:]]).disagreements == 1


# --- the real data --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_folder(shared_datasets):
    try:
        return find_folder(shared_datasets)
    except DataNotFoundError as error:
        pytest.skip(f"the published solutions are not here: {error}")


@pytest.fixture(scope="module")
def real(real_folder):
    """All questions with their solutions."""
    questions = make_questions(real_folder)
    return questions, load_solutions(real_folder, questions)


def make_questions(folder):
    task = Game("gsm8k", split="test", data_dir=folder).task
    return [task.question(k) for k in range(task.num_questions())]


def holds(mark):
    """Judge a mark with Python's parser in place of ours: None when it cannot be read."""
    left, _, stated = mark.rpartition("=")
    text = re.sub(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,])", lambda found: found[1].replace(",", ""), left.strip())
    text = re.sub(r"([\d.]+)%(?![\d.(])", r"(\1/100)", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)
    stated = stated.strip()
    if not re.fullmatch(r"-?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?\.?", stated) or not re.search(r"\d", stated):
        return None
    number = Fraction(stated.replace(",", "").rstrip("."))
    try:
        value = python_value(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None
    allowed = Fraction(1, 2) / 10 ** len(stated.partition(".")[2])
    return abs(value - number) <= max(allowed, abs(value) / 10**9)


def python_value(node, source):
    operators = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}
    if isinstance(node, ast.BinOp) and type(node.op) in operators:
        left, right = python_value(node.left, source), python_value(node.right, source)
        return getattr(left, operators[type(node.op)])(right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -python_value(node.operand, source)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return Fraction(ast.get_source_segment(source, node).rstrip("."))  # exact: not the float
    raise ValueError


def test_the_library_reads_every_label(real):
    questions, solutions = real
    rates = measure(questions, solutions)
    assert rates.disagreements == 0
    assert tuple(sum(s[m].labelled_right for s in solutions) for m in range(4)) == LABELLED_RIGHT
    assert (rates.total, rates.right) == (4 * 1319, sum(LABELLED_RIGHT))


def test_the_reviewers_rates_by_another_calculator(real):
    questions, solutions = real
    said = {True: [], False: []}
    for solution in (s for by_model in solutions for s in by_model):
        verdicts = [holds(mark) for mark in re.findall(r"<<([^<>]*)>>", solution.text)]
        expected = False not in verdicts
        assert review(solution.text).startswith("RIGHT") == expected, solution.text
        said[solution.labelled_right].append(expected)
    rates = measure(questions, solutions)
    assert (rates.right_said_right, rates.wrong_said_right) == (sum(said[True]), sum(said[False]))
    assert rates.right_said_right / rates.right > 0.998  # a right solution is hardly ever accused ...
    assert 0.98 < rates.wrong_said_right / (rates.total - rates.right) < 0.995  # ... and a wrong one hardly either


def test_a_part_of_the_real_recording(real_folder, real, tmp_path):
    _, solutions = real
    recording, _ = make_recording(real_folder, "part", 25)
    save_recording(tmp_path / "part.npz", recording)
    labels = np.array([[s.labelled_right for s in by_model] for by_model in solutions[:25]])
    tree = build_tree(Game(f"recorded:{tmp_path / 'part.npz'}"))
    first = [tree.leaf_first_right[tree.leaf_world == world].all() for world in range(100)]
    assert np.array_equal(np.reshape(first, (25, 4)), labels)
    final = np.roll(labels, -2, axis=1)  # always speaking ends with the third model of the rotation
    parsable = np.array([[a is not None for a in recording.proposals.answer[4 * q : 4 * q + 4]] for q in range(25)])
    same = np.roll(parsable, -2, axis=1)
    accuracy = evaluate(tree, 1.0).world_accuracy.reshape(25, 4)
    assert np.array_equal(accuracy[same], final[same])
    assert same.mean() > 0.9


@pytest.mark.slow
def test_first_proposals_of_the_whole_recording_are_right_as_often_as_the_labels_say(real_folder):
    recording, _ = make_recording(real_folder, "whole")
    first = recording.tree.correct[recording.world_nodes[:-1]]  # a world's first node is its first proposal
    assert first.sum() == recording.proposals.correct.sum() == sum(LABELLED_RIGHT)
    assert len(first) == len(recording.proposals) == 4 * 1319
    assert tuple(recording.proposals.correct.reshape(-1, 4).sum(axis=0)) == LABELLED_RIGHT
