"""The main job: runs public commands as stages, with their times and logs."""
