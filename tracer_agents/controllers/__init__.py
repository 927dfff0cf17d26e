"""Controllers: who decides SPEAK or SKIP."""
