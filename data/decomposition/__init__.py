"""Parts of one matrix of pocket, and how they were trained."""
