"""Skip transcoders of pocket's MLPs, one for each layer; `mi.sae.load(folder)` opens one."""
