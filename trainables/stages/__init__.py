"""The stages of a trial: the teacher, and the cascade whose levels share weights; what they learn and how they step."""
