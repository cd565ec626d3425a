" What llama.vim asks of a server, by curl as it does, and what it makes of the answers. The plugin
" itself is not in a package registry: requests are as in its source.
"
"   vim -N -es -u NONE -S llama_vim.vim
"
" SC2ONNX_ASK: a JSON object of url, key, prefix, prompt, suffix, n_predict, warms, and gives_up,
" milliseconds until somebody types on, 0 for never. SC2ONNX_TOLD: the file for {"answer", "shown"}.

let s:ask = json_decode($SC2ONNX_ASK)
let s:answer = ''

let s:body = {
  \ 'id_slot': 0,
  \ 'input_prefix': s:ask.prefix,
  \ 'input_suffix': s:ask.suffix,
  \ 'input_extra': [{'text': "def sub(a, b):\n", 'time': [1, 2], 'filename': 'other.py'}],
  \ 'prompt': s:ask.prompt,
  \ 'n_predict': s:ask.n_predict,
  \ 'stop': [],
  \ 'n_indent': len(matchstr(s:ask.prompt, '^\s*')),
  \ 'top_k': 40,
  \ 'top_p': 0.90,
  \ 'samplers': ['top_k', 'top_p', 'infill'],
  \ 'stream': v:false,
  \ 'cache_prompt': v:true,
  \ 't_max_prompt_ms': 500,
  \ 't_max_predict_ms': s:ask.gives_up > 0 ? 100000 : 1000,
  \ 'response_fields': ['content', 'timings/prompt_n', 'timings/prompt_ms', 'timings/predicted_n',
  \   'timings/predicted_ms', 'truncated', 'tokens_cached'],
  \ 'model': '',
  \ }
if s:ask.warms
  call extend(s:body, {'n_predict': 0, 'samplers': [], 'response_fields': ['']})
  call extend(s:body, {'t_max_prompt_ms': 1, 't_max_predict_ms': 1})
endif

function! s:Heard(channel, text) abort
  let s:answer .= a:text
endfunction

let s:command = ['curl', '--silent', '--no-buffer', '--request', 'POST', '--url',
  \ s:ask.url . '/infill', '--header', 'Content-Type: application/json',
  \ '--header', 'Authorization: Bearer ' . s:ask.key, '--data', '@-']
let s:job = job_start(s:command, {'out_cb': function('s:Heard'), 'out_mode': 'raw'})
call ch_sendraw(s:job, json_encode(s:body))
call ch_close_in(s:job)
let s:since = reltime()
while job_status(s:job) ==# 'run' || ch_status(s:job, {'part': 'out'}) ==# 'buffered'
  if s:ask.gives_up > 0 && reltimefloat(reltime(s:since)) * 1000 > s:ask.gives_up
    call job_stop(s:job)
  endif
  sleep 5m
endwhile
sleep 50m

" It shows nothing of an answer that does not have this, with no space after the colon.
let s:shown = s:answer =~# '"content"\s*:"' ? json_decode(s:answer).content : v:null
call writefile([json_encode({'answer': s:answer, 'shown': s:shown})], $SC2ONNX_TOLD)
qall!
