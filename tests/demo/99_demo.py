# ---
# title: The logit difference
# minutes: 5
# ---

# %% [markdown]
# **The question.** By how much does a model prefer one answer to another?
#
# **You need** to know what a logit is. **You will be able to** say why we compare two of them.

# %% [markdown]
# Adding one constant to every logit changes no probability. Does it change the difference of two?

# %%
logits = torch.tensor([2.0, 0.5, -1.0])
shifted = logits + 3
change = (shifted[0] - shifted[1]) - (logits[0] - logits[1])

# %% [markdown]
# It does not, while a single logit moves by the constant.

# %%
claim("demo.shift_invariant", change.abs(), control=shifted[0] - logits[0])

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise: many prompts at once
# Write the logit difference of a batch: one number for each row.

# %% [markdown] tags=["hint"]
# `logits[torch.arange(n), right]` picks one column from each of `n` rows.


# %% tags=["exercise"]
def logit_difference(logits, right, wrong):
    """logits (batch, d_vocab), right and wrong (batch,) token ids -> (batch,)."""
    raise NotImplementedError


# %% tags=["solution"]
def logit_difference(logits, right, wrong):
    rows = torch.arange(len(logits))
    return logits[rows, right] - logits[rows, wrong]


# %% tags=["check"]
check.logit_difference(logit_difference)

# %% [markdown]
# ## Summary
# The logit difference ignores what all logits share. Where to read on: ...

# %%
claim.table()
