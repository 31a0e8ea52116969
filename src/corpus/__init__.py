"""Building the training data: recipes, descriptions, and the stages from raw audio to train-ready sets."""
