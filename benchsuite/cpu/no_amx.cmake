# Included where ggml's own project begins: everything this processor has, but no AMX.
add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
