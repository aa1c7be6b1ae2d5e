# Every target is a word of ci/run; variables go through the environment.
TARGETS_OF_RUN := adopt base-tree bench bench-keep bench-short build build-arm64 build-each compare \
	expected-tests export fixed-point fuzz help image judge-tests kselftest lint lint-rust \
	negative rebase run shell test tree user-build user-guest user-lint \
	user-test vm
TARGETS_OF_RUN += check-commits faults no-harm soak

.PHONY: $(TARGETS_OF_RUN)
.DEFAULT_GOAL := help

# In a shell SECONDS counts by itself.
FUZZ_SECONDS ?= $(SECONDS)
export FUZZ_SECONDS SEED REPLAY TRIES MINIMISE

export TARGETS CMD KERNEL BASE BASE_TARBALL TIMEOUT FORCE CPUS MEM ACCEL ICOUNT PROGRAMS
SOAK_MINUTES ?= $(TIME)
export FAULTS FAULTS_STEP KERNELS STRESSORS STRESS_SECONDS SOAK_MINUTES
export REPEAT GUESTS

$(TARGETS_OF_RUN):
	@ci/run $@
