"""Conversations and clips to the inputs of :class:`src.hf.modeling.AlarmForConditionalGeneration`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, FeatureExtractionMixin, ProcessorMixin
from transformers.utils import PROCESSOR_NAME, cached_file

from src.audio.waveform import Waveform, load_waveform
from src.common.errors import UserError
from src.hf.configuration import AUDIO_TOKEN, NoCodeFiles, bind_models, joined_fields, with_audio_token
from src.model.audio_embedder import AudioEmbedder, build_feature_extractor
from src.model.checkpoints import Checkpoint, open_checkpoint
from src.model.llm import load_tokenizer
from src.model.published import build_on_meta
from src.prompts.chat import Placeholders, following_ids, render_marked, text_ids
from src.prompts.messages import clip_layout
from src.prompts.prompt_sets import choose_prompts

FLATTEN_PARTS = """
{%- set alarm = namespace(messages=[], text='', said='') -%}
{%- for message in messages -%}
    {%- if message['content'] is not defined or message['content'] is none -%}
        {%- set alarm.messages = alarm.messages + [message] -%}
    {%- else -%}
        {%- set alarm.text = message['content'] if message['content'] is string else '' -%}
        {%- set alarm.said = alarm.text -%}
        {%- if message['content'] is not string -%}
            {%- for content in message['content'] -%}
                {%- if content['type'] == 'text' -%}
                    {%- set alarm.text = alarm.text + content['text'] -%}
                    {%- set alarm.said = alarm.said + content['text'] -%}
                {%- else -%}
                    {%- set alarm.text = alarm.text + CLIP -%}
                {%- endif -%}
            {%- endfor -%}
        {%- endif -%}
        {%- if 'TOKEN' in alarm.said -%}
            {{- raise_exception('a text contains TOKEN, the placeholder of audio; remove it') -}}
        {%- endif -%}
        {%- set alarm.messages = alarm.messages + [dict(message, content=alarm.text)] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = alarm.messages -%}
{{- '' }}"""
"""Put in front of the language model's template, which takes text only: parts become text with placeholders. Programs
that render the template themselves (vLLM) recognise by it that messages may have parts. The empty text at its end
keeps what the language model's template begins with: a block would swallow a line end."""


def with_parts(template: str, audio_tags: Sequence[str]) -> str:
    """A language model's chat template for messages with audio parts; the tags are written around each clip."""
    opening, closing = audio_tags
    clip = repr(f"{opening}{AUDIO_TOKEN}{closing}")
    return FLATTEN_PARTS.replace("CLIP", clip).replace("TOKEN", AUDIO_TOKEN) + template


class AlarmFeatureExtractor(NoCodeFiles, FeatureExtractionMixin):
    """Decodes clips and counts the embeddings that each becomes.

    Samples stay at their own rate: the model resamples them to the rate of each encoder, on its own device.

    Args:
        alarm: content of ``model`` in ``alarm_config.json``; a list of them for an ensemble.
        sampling_rate: of arrays that come without one, in samples per second.
    """

    model_input_names = ["input_values", "input_lengths", "input_rates"]

    def __init__(
        self,
        alarm: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        sampling_rate: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alarm = dict(alarm) if isinstance(alarm, Mapping) else [dict(each) for each in alarm]
        encoders = [spec for model in bind_models(self.alarm) for spec in model.config.encoders.values()]
        self.sampling_rate = sampling_rate or max(spec.features.sample_rate for spec in encoders)

    def fetch_audio(self, audio: Any, sampling_rate: int | None = None) -> list[Waveform]:
        """Decoded clips; ``audio`` is one clip or several, in any form of :func:`src.audio.waveform.load_waveform`.

        Raises :class:`AudioError` for a clip that cannot be decoded.
        """
        several = isinstance(audio, (list, tuple)) and not (audio and isinstance(audio[0], (int, float)))
        rate = sampling_rate or self.sampling_rate
        return [load_waveform(clip, sample_rate=rate) for clip in (audio if several else [audio])]

    def __call__(self, audio: Any, sampling_rate: int | None = None, **_: Any) -> BatchFeature:
        """Mono samples ``input_values`` (clips, samples), zero beyond ``input_lengths`` (clips,), at ``input_rates``
        (clips,) samples per second, and ``num_audio_tokens`` (clips, checkpoints) as :meth:`count` gives them."""
        clips = self.fetch_audio(audio, sampling_rate)
        samples = [clip.mono.float() for clip in clips]
        return BatchFeature(
            {
                "input_values": pad_sequence(samples, batch_first=True),
                "input_lengths": torch.tensor([len(each) for each in samples]),
                "input_rates": torch.tensor([clip.sample_rate for clip in clips]),
                "num_audio_tokens": torch.tensor([self.count(clip) for clip in clips]),
            }
        )

    def count(self, clip: Waveform) -> tuple[int, ...]:
        """Embeddings of a clip, separators included: one number, or one for each checkpoint of an ensemble.

        Only the clip's length and rate matter; no features are computed.
        """
        # learned separators are two more embeddings, before and behind the clip
        samples, rate = clip.samples.shape[-1], clip.sample_rate
        return tuple(
            int(embedder.calc_length(extractor.lengths(samples, rate))) + (0 if embedder.separators() is None else 2)
            for extractor, embedder in self._models
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings, without what is computed from them."""
        own = {"alarm": self.alarm, "sampling_rate": self.sampling_rate}
        return {**own, "feature_extractor_type": type(self).__name__}

    @cached_property
    def _models(self) -> list[tuple[Any, AudioEmbedder]]:
        """Feature extractor and audio embedder, without memory for its tensors, of each checkpoint."""
        models = bind_models(self.alarm)
        return [(build_feature_extractor(each.config), build_on_meta(each, "feature extractor")) for each in models]


class AlarmProcessor(NoCodeFiles, ProcessorMixin):
    """Tokenizes text around clips; each embedding of a clip has a placeholder token.

    Args:
        feature_extractor: decodes the clips.
        tokenizer: of the language model.
        audio_tags: texts around a clip of checkpoints without learned separators; the chat template writes them.
        audio_parts: texts between the embeddings of an ensemble's checkpoints, and None for the embeddings of each.
        chat_template: another template than the tokenizer's.
    """

    audio_token = AUDIO_TOKEN

    def __init__(
        self,
        feature_extractor: AlarmFeatureExtractor,
        tokenizer: Any,
        audio_tags: Sequence[str] = ("", ""),
        audio_parts: Sequence[str | None] = (None,),
        chat_template: str | None = None,
    ) -> None:
        super().__init__(feature_extractor, with_audio_token(tokenizer), chat_template=chat_template)
        self.audio_tags = list(audio_tags)
        self.audio_parts = list(audio_parts)
        self.audio_token_id = tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The processor of a checkpoint of any form. Raises :class:`UserError` if there is none of that name."""
        hub = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in kwargs}
        # the underscored options are those by which ProcessorMixin asks for files that need not exist
        saved = cached_file(
            pretrained_model_name_or_path,
            PROCESSOR_NAME,
            **hub,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if saved is not None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        checkpoint = open_checkpoint(pretrained_model_name_or_path, kwargs.get("revision"))
        return cls.of_checkpoints([checkpoint], kwargs.get("tokenizer"))

    @classmethod
    def of_checkpoints(cls, checkpoints: Sequence[Checkpoint], tokenizer: Any = None) -> AlarmProcessor:
        """The processor of a checkpoint, or of an ensemble; ``tokenizer`` in place of the language model's own."""
        models = [each.config for each in checkpoints]
        trained_with = [(each.name, each.extra) for each in checkpoints]
        prompts = choose_prompts(None, trained_with, models[0].llm)
        tags, parts = clip_layout(prompts, [each.config.use_explicit_audio_tokens for each in models])
        words = load_tokenizer(models[0].llm, models[0].llm_revision, models[0].reasoning)
        template = with_parts(words.chat_template, tags) if isinstance(words.chat_template, str) else None
        return cls(AlarmFeatureExtractor(joined_fields(models)), tokenizer or words, tags, parts, template)

    def clip_ids(self, counts: Sequence[int], embedding: int | None = None) -> list[int]:
        """Ids in the place of a clip: texts of :attr:`audio_parts`, and ``embedding`` for each of its embeddings.

        ``counts`` are those of :meth:`AlarmFeatureExtractor.count`; ``embedding`` is the placeholder's id by default.
        """
        own = self.audio_token_id if embedding is None else embedding
        remaining = iter(counts)
        ids: list[int] = []
        for part in self.audio_parts:
            ids += [own] * int(next(remaining)) if part is None else following_ids(self.tokenizer, part)
        return ids

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        padding_side: Literal["left", "right"] = "left",
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Inputs of texts with :attr:`audio_token` where each clip belongs.

        Args:
            text: one text or several, with special tokens as a chat template writes them; none are added.
            audio: the clips of all texts in their order: one, or a list; in any form of
                :func:`src.audio.waveform.load_waveform`.
            sampling_rate: of arrays, in samples per second; None: that of the feature extractor.
            padding: False for texts of different lengths is an error, because the result is one tensor.
            padding_side: left for generation.
            return_tensors: "pt" only.

        Returns:
            ``input_ids`` and ``attention_mask`` (texts, tokens), and with clips what
            :class:`AlarmFeatureExtractor` returns without its counts.

        Raises:
            UserError: another number of clips than placeholders.
        """
        if return_tensors != "pt":
            raise UserError(f"processor: return_tensors={return_tensors!r}, expected 'pt'")
        texts = [text] if isinstance(text, str) else list(text or [])
        clips = BatchFeature({}) if audio is None else self.feature_extractor(audio, sampling_rate)
        counts = clips.pop("num_audio_tokens", [])
        places = sum(each.count(self.audio_token) for each in texts)
        if texts and places != len(counts):
            raise UserError(
                f"processor: got {len(counts)} clips for {places} placeholders {self.audio_token}; expected one for "
                "each, in the order of the texts"
            )
        if not texts:
            return clips
        inserted = iter([self.clip_ids(each.tolist()) for each in counts])
        ids = [self._ids(each, inserted) for each in texts]
        longest = max(map(len, ids))
        if not padding and any(len(each) != longest for each in ids):
            raise UserError("processor: padding=False and texts of different lengths; expected padding=True")
        # any id will do for padding, which the attention mask excludes
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        rows = torch.full((len(ids), longest), pad)
        mask = torch.zeros_like(rows)
        for row, each in enumerate(ids):
            place = slice(longest - len(each), None) if padding_side == "left" else slice(len(each))
            rows[row, place] = torch.tensor(each)
            mask[row, place] = 1
        return BatchFeature({"input_ids": rows, "attention_mask": mask, **clips})

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        return_tensors: str = "pt",
        sampling_rate: int | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A conversation, or several, by the language model's template.

        The content of a message is text, or a list of parts ``{"type": "text", "text": …}`` and ``{"type": "audio",
        "audio": …}`` with a clip in any form of :func:`src.audio.waveform.load_waveform` (``path`` and ``url`` are
        accepted as keys too). ``sampling_rate`` is that of arrays; ``kwargs`` are variables of the template.

        Returns:
            Text with a placeholder for each clip (a list for several conversations); with ``tokenize`` what
            :meth:`__call__` returns, or its ``input_ids`` without ``return_dict``.

        Raises:
            UserError: a part of another kind, text that contains the placeholder, or a conversation that the template
                refuses.
        """
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        conversations: Sequence[Any] = conversation if several else [conversation]
        options = {**kwargs, "add_generation_prompt": add_generation_prompt}
        if chat_template or self.chat_template:  # the tokenizer's own template does not know parts of messages
            options["chat_template"] = chat_template or self.chat_template
        if continue_final_message:
            options["continue_final_message"] = True
        clips: list[Any] = []
        texts = [self._render(each, clips, options) for each in conversations]
        if not tokenize:
            return texts if several else texts[0]
        inputs = self(
            texts, clips or None, sampling_rate, return_tensors=return_tensors, **(dict(processor_kwargs or {}))
        )
        return inputs if return_dict else inputs["input_ids"]

    @property
    def model_input_names(self) -> list[str]:
        """Names of what :meth:`__call__` returns."""
        return ["input_ids", "attention_mask", *self.feature_extractor.model_input_names]

    def _render(self, messages: Sequence[Mapping[str, Any]], clips: list[Any], options: Mapping[str, Any]) -> str:
        marks = Placeholders()
        flat = [{**each, "content": self._content(each["content"], marks, clips)} for each in messages]
        rendered = render_marked(self.tokenizer, flat, marks, **options)
        opening, closing = self.audio_tags
        return f"{opening}{self.audio_token}{closing}".join(text for text, _ in marks.split(rendered))

    def _content(self, content: Any, marks: Placeholders, clips: list[Any]) -> str:
        """Text of a message with a mark for each clip, which is appended to ``clips``."""
        written = ""
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part.get("type") == "text":
                if self.audio_token in part["text"]:
                    raise UserError(
                        f"conversation: a text contains {self.audio_token}, the placeholder of audio; remove it"
                    )
                written += part["text"]
                continue
            given = [part[key] for key in ("audio", "path", "url", "base64") if key in part]
            if part.get("type") != "audio" or len(given) != 1:
                raise UserError(
                    f"conversation: got a part of type {part.get('type')!r} with {', '.join(part)}; expected "
                    "type 'text' with 'text', or type 'audio' with 'audio'"
                )
            clips.append(given[0])
            written += marks.next()
        return written

    def _ids(self, text: str, clips: Iterator[list[int]]) -> list[int]:
        """Token ids of a text, with those of its clips in the places of the placeholders.

        Text is never tokenised across a clip, as everywhere in this project (src.prompts.chat).
        """
        ids: list[int] = []
        for number, piece in enumerate(text.split(self.audio_token)):
            if number:
                ids += next(clips)
            if piece:
                ids += (following_ids if ids else text_ids)(self.tokenizer, piece)
        return ids
