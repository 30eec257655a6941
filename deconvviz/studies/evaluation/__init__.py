"""How well methods explain: methods by metrics over images."""
