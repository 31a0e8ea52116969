"""Stages that turn descriptions and prompts into training targets."""
