"""What `test_processes.py` runs alone and under `accelerate launch`: prints what one process finds, as JSON."""

import json
import sys
from pathlib import Path

import torch

from personalab.endpoint.parallel import generate_responses_parallel
from personalab.lm import processes
from personalab.lm.activations import mean_response_activations
from personalab.lm.chat import as_messages
from personalab.lm.finetuning import finetune
from personalab.lm.generation import generate, requests_for
from personalab.lm.interventions import Steer
from personalab.lm.lora_data import Dialogue, LoraSettings
from personalab.lm.tiny import load_tiny_model

model, tokenizer = load_tiny_model("llama")
personas = [f"You are number {i % 3} of three, who speak of {i % 3} things at a time." for i in range(21)]
asked = [as_messages(p, f"Question {i} about {'rivers ' * (i % 5)}?") for i, p in enumerate(personas)]
limits = {"max_batch_tokens": 400, "max_batch_rows": 3}
answers = generate(model, tokenizer, requests_for(asked, 12), progress=True, **limits)
coefficients = torch.linspace(-4, 4, len(asked))
steer = Steer(1, torch.randn(32, generator=torch.Generator().manual_seed(1)), coefficients)
swept = generate(model, tokenizer, requests_for(asked, 12, interventions=[steer]), interventions=[steer], **limits)
read = [[*c, {"role": "assistant", "content": f"I am {i}. {'And so on. ' * (i % 4)}"}] for i, c in enumerate(asked)]
pooled = mean_response_activations(model, tokenizer, read, batch_tokens=300)
words = generate_responses_parallel(asked, model="remote", progress=False)
settings = LoraSettings(rank=2, accumulation=2 // processes.count(), batch_size=1)
tuned = finetune(model, tokenizer, [Dialogue(c) for c in read[:8]], settings, progress=False)
found = {
    "count": processes.count(),
    "answers": [c.text for c in answers],
    "swept": [c.text for c in swept],
    "pooled": pooled.tolist(),
    "words": words,
    "adapter": [p.tolist() for n, p in tuned.named_parameters() if "lora" in n],
}
Path(sys.argv[1], f"{processes.rank()}-of-{processes.count()}.json").write_text(json.dumps(found))
