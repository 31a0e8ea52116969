"""An imitation of a clone of the published repository: texts of our own, built in the structure of its source.

The texts stand here once as plain values; :func:`write_clone` writes source that puts them together from adjacent
literals, f-strings, loops and replacements, as ``published_surface.md`` describes. The source raises when it is run.
"""

from __future__ import annotations

from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FREE_SYSTEM = "Hark! A sound precedes the words; obey the words."
CHOICE_SYSTEM = (
    "Hark, then pick. Choices look like '(Option_{option_ID}) {option_value}'.\n\n"
    "Write <answer>{option_ID}</answer> alone.\nNot so:\n{chatter}<answer>{option_ID}<answer>\n\nObey."
)
CHOICE_INSTRUCTION = (
    "Rule: pick for the <question> among the <options>. Give one {option_ID}, not {question} itself.\n\n"
)
INTRO = ("Lend your ear ", " times to one sound.\n\n")
HEADING = ("Round (", "/", ") goes so:\n")
CLOSING = "\n\nThe bell has rung, so I speak.\n</think>\n\n"
TARGET_SYSTEM = "You hark. Sounds come as <start_audio> ... <end_audio>, then a wish.\nGrant the wish."
PAIRS = (
    (
        "[d1] {x}",
        "p1",
        "<r_old>\nThe note says rain.\n</r_old>\n\nRain.",
        "<r_old>\nI hark at rain.\n</r_old>\n\nRain.",
    ),
    ("[d2]", "p2", "<r_old>\nIt is listed: a dog\n</r_old>", "<r_old>\nHark: a dog\n</r_old>"),
    ("[d3]", "p3", "<r_old>\nsnr 2\n</r_old>\n\nLoud.", "<r_old>\nnoisy\n</r_old>\n\nLoud."),
    ("[d4]", "p4", "<r_old>\nspoof: yes\n</r_old>\n\nFake.", "<r_old>\nsounds odd\n</r_old>\n\nFake."),
)
REPHRASE_TASK = "Turn readers into harkers.\n<RULES>\n1. Keep 'all'.\n2. No <start_audio>.\n</RULES>\n\n"
REPHRASE_EXAMPLES = "Pairs:\n"
REPHRASE_END = "Hold to the pairs."
REPHRASE_USER = (
    "Here comes one.\n\nTurn what stands in <r_old>.\n<NEW>\n",
    "\n</NEW>\nWhat is cut stays cut, after </r_old> too.\n",
)
CHECKER_SYSTEM = (
    "Judge it. It was given '{audio}\\n\\n{prompt}'.\nEnd with ANSWER: and YES or NO.\n\n",
    ("<think>\nthe tag says\n</think>\n\nx\n", "It read.\n\nANSWER: YES"),
    ("<think>\nI hark\n</think>\n\ny\n", "It did not.\n\nANSWER: NO"),
)
CHECKER_USER = ("Order: judge by <RULES>. ", "What it wrote:\n", "\n\n")


def rephrase_system() -> str:
    """The rewriter's task with its worked pairs, as the structure prescribes."""
    text = REPHRASE_TASK + REPHRASE_EXAMPLES
    for number, (_, _, old, new) in enumerate(PAIRS, 1):
        text += (
            f"<OLD_{number}>\n{old}\n</OLD_{number}>\n<NEW_{number}>\n<answer>\n{new}\n</answer>\n</NEW_{number}>\n\n"
        )
    return text + REPHRASE_END


def checker_system() -> str:
    """The checker's task with its examples, as the structure prescribes."""
    text = CHECKER_SYSTEM[0]
    for number, (response, verdict) in enumerate(CHECKER_SYSTEM[1:], 1):
        text += f"Case {number}:\n{response}\n\nVerdict {number}:\n{verdict}\n\n"
    return text


def choice_user(question: str, choices: list[str]) -> str:
    """The user turn of a multiple-choice question, as the structure prescribes."""
    options = "".join(f"(Option_{number}) {choice}\n" for number, choice in enumerate(choices))
    return f"{CHOICE_INSTRUCTION}<question>\n{question}\n</question>\n\n<options>\n{options}</options>\n\n"


def write_clone(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """Write the clone; functions named ``FILE:NAME`` in ``without`` are left out. Returns ``folder``."""
    sources = {
        "generate_vllm.py": {"get_system_prompt": _returns(FREE_SYSTEM), "get_response": _response()},
        "generate_vllm_mcqa.py": {
            "get_system_prompt": _returns(CHOICE_SYSTEM),
            "get_main_prompt": _choice_user(),
            "get_response": _response(),
        },
        "scripts/alarm/generate_responses.py": {
            "get_system_prompt": _returns(TARGET_SYSTEM),
            "get_main_prompt": _target_user(),
            "get_rephrased_system_prompt": _rephrase_system(),
            "get_rephrased_main_prompt": _rephrase_user(),
            "get_checker_system_prompt": _checker_system(),
            "get_checker_main_prompt": _checker_user(),
            "get_rephrased_response": _response(ensemble=False),
        },
    }
    for file, functions in sources.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        written = [text for name, text in functions.items() if f"{file}:{name}" not in without]
        head = 'import vllm_that_is_not_there\n\nraise SystemExit("this source must not be run")\n\n'
        path.write_text(head + "\n\n".join(written), encoding="utf-8")
    (folder / ".git").mkdir(exist_ok=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")
    (folder / ".git" / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n", encoding="utf-8")
    return folder


def _pieces(text: str, indent: str = "        ") -> str:
    """Adjacent literals in brackets, cut in the middle of words, with comments between them."""
    step = 17
    lines = [f"{indent}{text[start : start + step]!r}" for start in range(0, len(text), step)]
    lines.insert(1, f"{indent}# {text[:5]!r} an earlier wording")
    return "(\n" + "\n".join(lines) + "\n    )"


def _returns(text: str) -> str:
    return (
        "def get_system_prompt():\n    # system_prompt = 'an old one'\n"
        f"    system_prompt = {_pieces(text)}\n    return system_prompt\n"
    )


def _choice_user() -> str:
    return (
        'def get_main_prompt(question, choices):\n    options_list = ""\n'
        "    for i, option in enumerate(choices):\n"
        '        option = f"(Option_{i}) {option}\\n"\n        options_list += option\n'
        f"    main_prompt = (\n        {CHOICE_INSTRUCTION[:20]!r}\n        {CHOICE_INSTRUCTION[20:]!r}\n"
        '        f"<question>\\n{question}\\n</question>\\n\\n"\n'
        '        f"<options>\\n{options_list}</options>\\n\\n"\n    )\n    return main_prompt\n'
    )


def _response(ensemble: bool = True) -> str:
    name = "get_response" if ensemble else "get_rephrased_response"
    hearings = f"""
    if use_explicit:
        start = start + "<start_audio>"
        main = "<end_audio>" + main
    if isinstance(feature_extractor, list):
        for i in range(len(feature_extractor)):
            input_start_str = (
                {HEADING[0][:3]!r} {HEADING[0][3:]!r}
                f"{{i+1}}/{{len(feature_extractor)}}{HEADING[2][:-1]}\\n"
            )
            inputs_main_str = "\\n"
            if i == 0:
                extra_input_str = (
                    f"{INTRO[0]}{{len(feature_extractor)}}"
                    {INTRO[1]!r}
                )
            print(f"{{i}} of them", input_start_str, inputs_main_str, extra_input_str)
"""
    return f"""def {name}(prompts, feature_extractor, llm, debug=False):{hearings if ensemble else ""}
    for response in llm.generate(prompts):
        inside_reasoning = "</think>" not in response.text
        if response.finish_reason == "length":
            reasoning_response = response.text
            if inside_reasoning:
                reasoning_response += (
                    {CLOSING[:9]!r}
                    {CLOSING[9:]!r}
                )
    if debug:
        print(f"===FULL: {{len(prompts)}} tokens===".strip())
    return [text.split("<answer>")[-1].split("</answer>")[0] for text in prompts]
"""


def _target_user() -> str:
    return (
        "def get_main_prompt(audio_description, prompt):\n"
        '    return f"<start_audio>{audio_description}<end_audio>\\n\\n{prompt}"\n'
    )


def _rephrase_system() -> str:
    pairs = ""
    for description, prompt, old, new in PAIRS:
        fields = (f"({description!r})", repr(prompt), _pieces(old, " " * 16), f"({new!r})")
        pairs += "        (\n" + "".join(f"            {field},\n" for field in fields) + "        ),\n"
    return (
        f"def get_rephrased_system_prompt():\n    example_pairs = [\n{pairs}    ]\n"
        f"    system_prompt = {_pieces(REPHRASE_TASK)}\n\n"
        f"    system_prompt += (\n        {REPHRASE_EXAMPLES!r}\n    )\n"
        "    id = 0\n    for desc, prompt, response, rephrased in example_pairs:\n        id += 1\n"
        '        # system_prompt += f"<IN_{id}>{desc}"\n'
        '        system_prompt += (\n            f"<OLD_{id}>\\n{response}\\n</OLD_{id}>\\n"\n        )\n'
        '        system_prompt += f"<NEW_{id}>\\n<answer>\\n"\n'
        '        system_prompt += f"{rephrased}\\n</answer>\\n</NEW_{id}>\\n\\n"\n'
        f"    system_prompt += (\n        {REPHRASE_END!r}\n    )\n    return system_prompt\n"
    )


def _rephrase_user() -> str:
    return (
        "def get_rephrased_main_prompt(response, audio_description, prompt):\n"
        '    response = response.replace("<think>", "<r_old>")\n'
        '    response = response.replace("</think>", "</r_old>")\n'
        f"    main_prompt = (\n        {REPHRASE_USER[0]!r}\n        # f'{{audio_description}}'\n"
        f'        f"{{response}}"\n        {REPHRASE_USER[1]!r}\n    )\n    return main_prompt\n'
    )


def _checker_system() -> str:
    cases = CHECKER_SYSTEM[1:]
    named = "".join(
        f"    example_{n} = {_pieces(response)}\n    analysis_{n} = (\n        {verdict!r}\n    )\n"
        for n, (response, verdict) in enumerate(cases, 1)
    )
    shown = "".join(
        f'        f"Case {n}:\\n{{example_{n}}}\\n\\n"\n        f"Verdict {n}:\\n{{analysis_{n}}}\\n\\n"\n'
        for n in range(1, len(cases) + 1)
    )
    return (
        f"def get_checker_system_prompt():\n{named}"
        f"    checker_system_prompt = (\n        {CHECKER_SYSTEM[0]!r}\n{shown}"
        "    )\n\n    return checker_system_prompt\n"
    )


def _checker_user() -> str:
    return (
        "def get_checker_main_prompt(response, description, prompt):\n    main_prompt = (\n"
        f"        {CHECKER_USER[0]!r}\n        # f'{{prompt}}'\n"
        f'        f"{CHECKER_USER[1][:-1]}\\n{{response}}\\n\\n"\n    )\n    return main_prompt\n'
    )
