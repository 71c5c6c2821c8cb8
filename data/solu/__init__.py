"""Language models that differ in their MLPs' activation alone; the README is their card."""
