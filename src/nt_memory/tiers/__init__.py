"""The three tiers: hot (L1), vectors (L2), cold (L3)."""
