# Every target is one call of the command line, so that Windows does without make: python -m personalab <target>
PYTHON ?= python3

.PHONY: setup doctor run record test lab notebooks site bench bench-peers clean

setup:
	$(PYTHON) -m personalab setup
doctor:
	$(PYTHON) -m personalab doctor
run:
	$(PYTHON) -m personalab run
record:
	$(PYTHON) -m personalab record
test:
	$(PYTHON) -m personalab test
lab:
	$(PYTHON) -m personalab lab
notebooks:
	$(PYTHON) -m personalab notebooks
site:
	$(PYTHON) -m personalab site
bench:
	$(PYTHON) -m personalab bench
bench-peers:
	$(PYTHON) -m personalab bench --peers
clean:
	$(PYTHON) -m personalab clean
