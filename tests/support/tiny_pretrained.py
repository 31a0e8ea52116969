"""Tiny audio models of transformers with random weights, saved to a folder as trained ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

CONVOLUTIONS = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    # in bfloat16 on a CPU with AMX, some of oneDNN's convolutions over 16 and fewer channels (of a group) are wrong:
    # torch 2.13, an error as large as the values; those of published encoders were compared and are right
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),  # 320 samples a frame, as the published models
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 10,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
WAVEFORM_MODELS: dict[str, Callable[[], Any]] = {
    "wav2vec2": lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**CONVOLUTIONS)),
    "wav2vec2_large": lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**CONVOLUTIONS, **LAYER_NORM)),
    "hubert": lambda: transformers.HubertForCTC(transformers.HubertConfig(**CONVOLUTIONS)),
    "hubert_large": lambda: transformers.HubertModel(transformers.HubertConfig(**CONVOLUTIONS, **LAYER_NORM)),
    "hubert_batch_norm": lambda: transformers.HubertModel(
        transformers.HubertConfig(**CONVOLUTIONS, conv_pos_batch_norm=True)
    ),
    "wavlm": lambda: transformers.WavLMModel(transformers.WavLMConfig(**CONVOLUTIONS)),
    "wavlm_large": lambda: transformers.WavLMModel(transformers.WavLMConfig(**CONVOLUTIONS, **LAYER_NORM)),
    "data2vec": lambda: transformers.Data2VecAudioModel(
        transformers.Data2VecAudioConfig(**{**CONVOLUTIONS, "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 7})
    ),
    "unispeech_sat": lambda: transformers.UniSpeechSatModel(transformers.UniSpeechSatConfig(**CONVOLUTIONS)),
    "conformer": lambda: transformers.Wav2Vec2ConformerModel(
        transformers.Wav2Vec2ConformerConfig(**CONVOLUTIONS, conv_depthwise_kernel_size=7)
    ),
}


def save_waveform_model(kind: str, folder: Path, **extractor: Any) -> Path:
    """One of ``WAVEFORM_MODELS`` with its feature extractor."""
    return _save(WAVEFORM_MODELS[kind], transformers.Wav2Vec2FeatureExtractor(**extractor), folder)


def save_ast(folder: Path) -> Path:
    """An audio spectrogram transformer with chunks of one second, 16 steps of 5 bands."""
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_length=100,
        num_mel_bins=32,
        patch_size=8,
        frequency_stride=6,
        time_stride=6,
    )
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=100)
    return _save(lambda: transformers.ASTForAudioClassification(config), extractor, folder)


def save_clap(folder: Path, fused: bool) -> Path:
    """A whole CLAP, text tower included; ``fused`` as laion/clap-htsat-fused."""
    audio = {
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "projection_hidden_size": 16,
        "enable_fusion": fused,
    }
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ClapConfig(audio_config=audio, text_config={**sizes, "vocab_size": 10}, projection_dim=8)
    extractor = transformers.ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc")
    return _save(lambda: transformers.ClapModel(config), extractor, folder)


def save_whisper(folder: Path, width: int = 32, layers: int = 4, mels: int = 80, positions: int = 1500) -> Path:
    """A whole Whisper, decoder included."""
    config = transformers.WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=2,
        encoder_ffn_dim=2 * width,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        num_mel_bins=mels,
        max_source_positions=positions,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
    return _save(lambda: transformers.WhisperForConditionalGeneration(config), extractor, folder)


def save_w2vbert(folder: Path) -> Path:
    """A w2v-BERT 2.0."""
    config = transformers.Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
    )
    return _save(lambda: transformers.Wav2Vec2BertModel(config), transformers.SeamlessM4TFeatureExtractor(), folder)


def _save(make: Callable[[], Any], extractor: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():  # transformers' own spread leaves some of these models nearly silent
            if parameter.ndim > 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder
