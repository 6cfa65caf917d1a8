# Every target is one call of the command line, so that Windows does without make: python -m personalab TARGET
# Options go through: make run ARGS="--section 2 --budget quick", make lab ARGS="--no-browser".
PYTHON ?= python3

.PHONY: setup doctor run record test lab notebooks site bench bench-peers clean

setup:
	$(PYTHON) -m personalab setup $(ARGS)
doctor:
	$(PYTHON) -m personalab doctor $(ARGS)
run:
	$(PYTHON) -m personalab run $(ARGS)
record:
	$(PYTHON) -m personalab record $(ARGS)
test:
	$(PYTHON) -m personalab test $(ARGS)
lab:
	$(PYTHON) -m personalab lab $(ARGS)
notebooks:
	$(PYTHON) -m personalab notebooks $(ARGS)
site:
	$(PYTHON) -m personalab site $(ARGS)
bench:
	$(PYTHON) -m personalab bench $(ARGS)
bench-peers:
	$(PYTHON) -m personalab bench --peers $(ARGS)
clean:
	$(PYTHON) -m personalab clean $(ARGS)
