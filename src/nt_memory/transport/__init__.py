"""Who orders the entries (`Journal`) and who carries ephemeral messages (`Bus`)."""
