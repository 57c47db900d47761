"""From counselling text to a served, empathetic language model."""
