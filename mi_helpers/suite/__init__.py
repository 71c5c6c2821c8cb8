"""What makes notebooks a suite: claims, exercises with checks, glossary and literature."""
