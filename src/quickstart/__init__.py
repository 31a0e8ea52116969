"""The main job: public commands run one after the other, each once, with its time and its log."""
