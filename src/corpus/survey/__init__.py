"""What a corpus holds, in numbers and examples: rows, lengths, prompts' variety, responses."""
