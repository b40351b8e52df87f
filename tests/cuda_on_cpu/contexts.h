// Where a fiber goes on, and how one stack is left for another. Written for x86-64; on other processors the C library
// does it, more slowly.
#pragma once

#include "scheduler.h"

#if !defined(__x86_64__) || defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_UCONTEXT
#include <ucontext.h>
#endif

namespace cuda_on_cpu {
namespace {

#if !defined(CUDA_ON_CPU_UCONTEXT)

typedef void* Context;  // its stack pointer; the registers that a function must keep lie there

extern "C" CUDA_ON_CPU_HIDDEN void cuda_on_cpu_switch(Context* from, Context to);
asm(R"(
    .text
    .globl cuda_on_cpu_switch
    .hidden cuda_on_cpu_switch
    .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");

void switch_context(Context& from, Context& to) { cuda_on_cpu_switch(&from, to); }

void make_context(Context& context, unsigned char* stack, Word bytes, void (*entry)()) {
    void** top = (void**)(stack + bytes);
    *--top = nullptr;  // a function expects the stack 8 bytes beside a multiple of 16
    *--top = (void*)entry;
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    context = top;
}

#else

typedef ucontext_t Context;

void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

void make_context(Context& context, unsigned char* stack, Word bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}

#endif

}  // namespace
}  // namespace cuda_on_cpu
