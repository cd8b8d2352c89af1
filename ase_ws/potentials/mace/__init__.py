"""All that knows the insides of MACE."""
