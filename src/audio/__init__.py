"""Audio: a file or array becomes a waveform, waveforms become batched encoder features, on any device."""
