"""Vision-language models that answer yes or no, as rewards for dno."""
