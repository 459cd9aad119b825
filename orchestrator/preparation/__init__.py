"""What comes before trials: checks of network and data, the room on machines and cards, and the teacher."""
