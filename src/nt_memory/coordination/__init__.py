"""How agents act together: locks, consensus, messages. Pure rules, and thin handles over them."""
