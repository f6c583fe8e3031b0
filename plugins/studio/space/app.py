"""The page of dno as a Hugging Face Space."""

from pathlib import Path

from dno_studio.space import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
